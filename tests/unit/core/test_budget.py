"""How many retries may be under way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.budget import RetryBudget


def started(budget: RetryBudget, live: int, tries: int) -> int:
    return sum(budget.begin(live) for _ in range(tries))


def test_a_hundred_always() -> None:
    assert started(RetryBudget(), live=0, tries=200) == 100
    assert started(RetryBudget(), live=500, tries=200) == 100


def test_a_fifth_of_many() -> None:
    assert started(RetryBudget(), live=1_000, tries=500) == 200
    assert started(RetryBudget(), live=1_004, tries=500) == 200
    assert started(RetryBudget(), live=1_005, tries=500) == 201


def test_who_is_done_makes_room() -> None:
    budget = RetryBudget(percent=20, least=1)
    assert budget.begin(0)
    assert not budget.begin(9)
    budget.end()
    assert budget.begin(0)


def test_it_shrinks_with_the_traffic() -> None:
    budget = RetryBudget(percent=50, least=2)
    assert started(budget, live=20, tries=20) == 10
    for _ in range(8):
        budget.end()
        assert not budget.begin(4)
    budget.end()
    assert budget.begin(4)


def test_none_at_all() -> None:
    budget = RetryBudget(percent=0, least=0)
    assert not budget.begin(1_000_000)
    assert started(RetryBudget(percent=20, least=0), live=4, tries=5) == 0


@given(
    st.integers(0, 100),
    st.integers(0, 10),
    st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=80),
)
def test_never_more_than_both_allow(
    percent: int, least: int, moves: list[tuple[bool, int]]
) -> None:
    budget = RetryBudget(percent, least)
    active = 0
    for ends, live in moves:
        if ends and active:
            budget.end()
            active -= 1
        elif not ends:
            room = active + 1 <= least or (active + 1) * 100 <= percent * live
            assert budget.begin(live) is room
            active += room
        assert budget.active == active
