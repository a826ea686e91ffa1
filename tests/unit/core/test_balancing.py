"""Whose turn it is."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.balancing import RoundRobin


def turns(start: int, candidates: str) -> RoundRobin[str]:
    balancer: RoundRobin[str] = RoundRobin(start)
    balancer.update(candidates)
    return balancer


def test_each_in_turn() -> None:
    balancer = turns(0, "abc")
    assert "".join(balancer.pick() or "-" for _ in range(7)) == "bcabcab"


def test_workers_begin_at_different_backends() -> None:
    assert {turns(start, "abc").pick() for start in range(3)} == {"a", "b", "c"}


def test_nobody_there() -> None:
    assert turns(0, "").pick() is None
    assert turns(0, "ab").pick(avoid="ab") is None


def test_who_was_tried_is_left_out() -> None:
    balancer = turns(0, "abc")
    assert {balancer.pick(avoid="a") for _ in range(6)} == {"b", "c"}
    assert [balancer.pick(avoid="ac") for _ in range(3)] == ["b"] * 3


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcdef"), min_size=1), st.integers(1, 20))))
def test_whatever_changes_the_turns_stay_even(changes: list[tuple[set[str], int]]) -> None:
    balancer = turns(0, "")
    for candidates, picks in changes:
        balancer.update(sorted(candidates))
        seen = Counter(balancer.pick() for _ in range(picks))
        assert set(seen) <= candidates
        assert max(seen.values()) - min(seen[one] for one in candidates) <= 1
