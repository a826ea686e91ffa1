"""Whom to start, whom to stop."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.lifecycle import plan
from lbctl.model import Backend, BackendStatus, Instance, Phase, State

AT = datetime(2026, 11, 22, tzinfo=UTC)


def instance(name: str, phase: Phase = Phase.RUNNING, problem: str = "") -> Instance:
    backend = None if problem else Backend(name, name, "10.0.0.1")
    return Instance(name, name, phase, backend, problem)


def status(name: str, state: State = State.UP, age: int = 0) -> BackendStatus:
    since = AT - timedelta(seconds=age)
    return BackendStatus(name, name, "10.0.0.1", 8080, 1, state, "", since, 0)


def test_starts_what_is_missing() -> None:
    todo = plan(3, [instance("a")], {"a": status("a")}, {"a"})
    assert (todo.start, todo.stop, todo.clear) == (2, (), ())


def test_the_newest_go_first() -> None:
    names = {"a": 30, "b": 10, "c": 20}
    todo = plan(
        1, [instance(n) for n in names], {n: status(n, age=s) for n, s in names.items()}, ()
    )
    assert todo.stop == ("b", "c")


def test_those_not_in_rotation_go_before_the_newest() -> None:
    statuses = {
        "down": status("down", State.DOWN, age=99),
        "new": status("new", age=1),
        "old": status("old", age=50),
    }
    everyone = [instance(name) for name in ("old", "new", "down", "unseen")]
    assert plan(1, everyone, statuses, ()).stop == ("down", "unseen", "new")


def test_strangers_count_too() -> None:
    assert plan(2, [instance("a"), instance("stranger")], {}, {"a"}).start == 0


def test_a_paused_one_counts() -> None:
    assert plan(1, [instance("a", Phase.PAUSED)], {}, {"a"}).start == 0


def test_exited_ones_of_our_own_are_cleared_away_and_replaced() -> None:
    everyone = [instance("mine", Phase.EXITED), instance("theirs", Phase.EXITED)]
    todo = plan(1, everyone, {}, {"mine"})
    assert (todo.start, todo.stop, todo.clear) == (1, (), ("mine",))


def test_leaving_ones_do_not_count_and_are_left_alone() -> None:
    everyone = [instance("stopping", Phase.STOPPING), instance("drained")]
    todo = plan(1, everyone, {"drained": status("drained", State.DRAINING)}, ())
    assert (todo.start, todo.stop) == (1, ())


def test_a_stranger_that_cannot_be_a_backend_does_not_count_but_our_own_does() -> None:
    stranger = plan(1, [instance("liar", problem="port 0")], {}, ())
    assert (stranger.start, stranger.stop) == (1, ())
    own = plan(1, [instance("new", problem="no address yet")], {}, {"new"})
    assert (own.start, own.stop) == (0, ())


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.sampled_from(Phase), st.booleans(), st.booleans()), max_size=8),
)
def test_the_plan_adds_up(replicas: int, drawn: list[tuple[Phase, bool, bool]]) -> None:
    everyone = [
        instance(str(n), phase, problem="" if valid else "bad")
        for n, (phase, valid, _) in enumerate(drawn)
    ]
    own = {str(n) for n, (_, _, mine) in enumerate(drawn) if mine}
    todo = plan(replicas, everyone, {}, own)
    counted = [
        i
        for i in everyone
        if i.phase in (Phase.RUNNING, Phase.PAUSED) and (i.backend is not None or i.id in own)
    ]
    assert len(counted) + todo.start - len(todo.stop) == replicas
    assert not (todo.start and todo.stop)
    assert set(todo.stop) <= {i.id for i in counted}
    assert set(todo.clear) <= own
