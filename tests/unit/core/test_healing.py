"""Who is replaced, when, and how often."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.healing import Patience, Treatment, treat
from lbctl.model import Backend, BackendStatus, HealingState, Instance, Phase, State

AT = datetime(2026, 11, 22, tzinfo=UTC)
UP, DOWN, OUT = State.UP, State.DOWN, State.DRAINING


def instance(name: str, phase: Phase = Phase.RUNNING) -> Instance:
    """Ours, unless its name says that it is a stranger."""
    revision = 0 if name.startswith("stranger") else 1
    return Instance(name, name, phase, Backend(name, name, "10.0.0.1"), revision=revision)


def statuses(**states: State) -> dict[str, BackendStatus]:
    return {
        name: BackendStatus(name, name, "10.0.0.1", 8080, 1, state, "", AT, 0)
        for name, state in states.items()
    }


EXITED, STOPPING, PAUSED = Phase.EXITED, Phase.STOPPING, Phase.PAUSED

# Wanted are two; `there` is what runs, as name: state or (state, phase).
TABLE: dict[str, tuple[dict[str, Any], dict[str, set[str]], Treatment]] = {
    "all is well": ({"a": UP, "b": UP}, {}, Treatment()),
    "one is gone": ({"a": UP}, {}, Treatment(start=1)),
    "all are gone": ({}, {}, Treatment(start=2)),
    "one is out, not for long": ({"a": UP, "b": DOWN}, {}, Treatment()),
    "one is out for too long": ({"a": UP, "b": DOWN}, {"missed": {"b"}}, Treatment(start=1)),
    "one is paused for too long": (
        {"a": UP, "b": (DOWN, PAUSED)}, {"missed": {"b"}}, Treatment(start=1),
    ),
    "its newcomer is on its way": (
        {"a": UP, "b": DOWN, "n": State.PROBING},
        {"missed": {"b"}, "newcomers": {"n"}},
        Treatment(),
    ),
    "its newcomer is in rotation": (
        {"a": UP, "b": DOWN, "n": UP}, {"missed": {"b"}}, Treatment(stop=("b",)),
    ),
    "it came back meanwhile": (
        {"a": UP, "b": UP, "n": State.PROBING}, {"newcomers": {"n"}}, Treatment(stop=("n",)),
    ),
    "it came back when its newcomer was there": (
        {"a": UP, "b": UP, "n": UP}, {"newcomers": {"n"}}, Treatment(stop=("n",)),
    ),
    "a newcomer is of no use": (
        {"a": UP, "b": DOWN, "n": DOWN},
        {"missed": {"b", "n"}, "newcomers": {"n"}},
        Treatment(start=1, stop=("n",), fruitless=("n",)),
    ),
    "a newcomer has exited, not for long": (
        {"a": UP, "n": (DOWN, EXITED)},
        {"newcomers": {"n"}},
        Treatment(),
    ),
    "one has just exited, and is started again": ({"a": UP, "b": (DOWN, EXITED)}, {}, Treatment()),
    "a newcomer exits again and again": (
        {"a": UP, "n": (DOWN, EXITED)},
        {"missed": {"n"}, "newcomers": {"n"}},
        Treatment(start=1, clear=("n",), fruitless=("n",)),
    ),
    "a newcomer is gone": (
        {"a": UP}, {"newcomers": {"n"}}, Treatment(start=1, fruitless=("n",)),
    ),
    "one has exited for good": (
        {"a": UP, "b": (DOWN, EXITED)}, {"missed": {"b"}}, Treatment(start=1, clear=("b",)),
    ),
    "one stops": ({"a": UP, "b": (OUT, STOPPING)}, {}, Treatment(start=1)),
    "one was taken out by hand": ({"a": UP, "b": OUT}, {"resting": {"b"}}, Treatment()),
    "one was told to stop, or exits again and again": ({"a": UP, "b": OUT}, {}, Treatment()),
    "a stranger counts": ({"a": UP, "stranger": UP}, {}, Treatment()),
    "a stranger is missed, and left alone": (
        {"a": UP, "b": UP, "stranger": DOWN}, {"missed": {"stranger"}}, Treatment(),
    ),
    "a stranger has exited, and is left alone": (
        {"a": UP, "stranger": (DOWN, EXITED)}, {"missed": {"stranger"}}, Treatment(start=1),
    ),
    "more than wanted is nobody's illness": ({"a": UP, "b": UP, "c": UP}, {}, Treatment()),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_table(case: str) -> None:
    there, ids, expected = TABLE[case]
    states = {name: one if isinstance(one, State) else one[0] for name, one in there.items()}
    instances = [
        instance(name) if isinstance(one, State) else instance(name, one[1])
        for name, one in there.items()
    ]
    assert treat(2, instances, statuses(**states), **ids) == expected


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(Phase), st.sampled_from(State), st.booleans()), max_size=7),
    st.sets(st.integers(0, 6)),
    st.sets(st.integers(0, 6)),
)
def test_whatever_is_there(
    replicas: int, drawn: list[tuple[Phase, State, bool]], missed: set[int], newcomers: set[int]
) -> None:
    """Nobody who serves is stopped, strangers are not touched, and no more are started than
    are missing.
    """
    names = [f"{'own' if own else 'stranger'}{n}" for n, (_, _, own) in enumerate(drawn)]
    there = [instance(name, phase) for name, (phase, _, _) in zip(names, drawn, strict=True)]
    known = statuses(**{name: state for name, (_, state, _) in zip(names, drawn, strict=True)})
    serving = {i.id for i in there if i.phase is Phase.RUNNING and known[i.id].state is UP}
    out = {name for n, name in enumerate(names) if n in missed} - serving
    new = {f"own{n}" for n in newcomers} - serving
    todo = treat(replicas, there, known, missed=out, newcomers=new)
    assert not serving & {*todo.stop, *todo.clear}
    assert not [one for one in (*todo.stop, *todo.clear) if one.startswith("stranger")]
    assert not set(todo.stop) & set(todo.clear)
    assert 0 <= todo.start <= replicas


# Time


def patience(limit: int = 3) -> Patience:
    return Patience(after_s=30, limit=limit, retry_min_s=5, retry_max_s=12)


def test_missed_is_who_has_been_out_for_long_enough_without_a_break() -> None:
    one = patience()
    one.look(0, statuses(a=UP, b=DOWN), ())
    one.look(29, statuses(a=UP, b=DOWN), ())
    assert one.missed(29) == set()
    assert one.missed(30) == {"b"}
    one.look(31, statuses(a=UP, b=UP), ())
    one.look(32, statuses(a=UP, b=DOWN), ())
    assert one.missed(61) == set()
    assert one.missed(62) == {"b"}


def test_who_rests_or_is_gone_is_not_missed() -> None:
    one = patience()
    one.look(0, statuses(a=DOWN, b=OUT), {"b"})
    assert one.missed(100) == {"a"}
    one.look(101, {}, ())
    assert one.missed(500) == set()


def test_one_that_was_ejected_is_not_missed() -> None:
    """It is well by its checks and has a time of its own at which it comes back; a newcomer of
    the same image would do no better.
    """
    one = patience()
    one.look(0, statuses(a=UP, b=State.EJECTED), ())
    assert one.missed(1_000) == set()
    one.look(1_001, statuses(a=UP, b=DOWN), ())
    assert one.missed(1_030) == set()
    assert one.missed(1_031) == {"b"}


def test_each_try_of_no_use_doubles_the_wait_until_it_gives_up() -> None:
    one = patience()
    assert one.allowed(0, 2) == 2
    one.was_fruitless(0, 1, "b-4: why")
    assert (one.allowed(4.9, 2), one.allowed(5, 2)) == (0, 2)
    assert one.status(1, 1, 0).state is HealingState.WAITING
    one.was_fruitless(5, 1, "b-5: why")
    assert (one.allowed(14.9, 2), one.allowed(15, 2)) == (0, 1)  # the last of three
    one.was_fruitless(15, 1, "b-6: why\n    its log")
    assert one.allowed(10_000, 2) == 0
    status = one.status(20, 1, 0)
    assert status.state is HealingState.GAVE_UP
    assert "b-6: why\n    its log" in status.message


def test_somebody_who_asks_for_something_makes_it_begin_anew() -> None:
    one = patience(limit=1)
    one.was_fruitless(0, 1, "")
    one.begin_anew()
    assert one.allowed(0, 1) == 1


def test_a_backend_that_enters_rotation_makes_it_begin_anew() -> None:
    one = patience(limit=1)
    one.look(0, statuses(a=UP, b=DOWN), ())
    one.was_fruitless(0, 1, "")
    one.look(1, statuses(a=UP, b=DOWN), ())
    assert one.allowed(1, 1) == 0
    one.look(2, statuses(a=UP, b=UP), ())
    assert one.allowed(2, 1) == 1


def test_what_is_said_of_it() -> None:
    one = patience()
    one.look(0, statuses(a=UP), ())
    assert one.status(0, 0, 0).state is HealingState.IDLE
    one.look(1, statuses(a=UP, b=DOWN), ())
    waiting = one.status(1, 0, 0)
    assert (waiting.state, waiting.message) == (
        HealingState.WAITING, "1 out of rotation; replaced after 30 s of it",
    )  # fmt: skip
    assert one.status(1, 0, 2).state is HealingState.REPLACING
