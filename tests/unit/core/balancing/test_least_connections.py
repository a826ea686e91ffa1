"""Who has the least to do."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.balancing import LeastConnections
from tests.unit.core.balancing.servers import WEIGHTS, Server, longest_run, picks, servers


def least(pool: list[Server], start: int = 0) -> LeastConnections[Server]:
    balancer: LeastConnections[Server] = LeastConnections(start)
    balancer.update(pool)
    return balancer


@given(st.lists(st.tuples(WEIGHTS, st.integers(0, 50)), min_size=1, max_size=8), st.data())
def test_the_least_load_for_its_weight(loads: list[tuple[float, int]], data: st.DataObject) -> None:
    pool = [Server(f"{number}", *load) for number, load in enumerate(loads)]
    avoid = data.draw(st.lists(st.sampled_from(pool), max_size=len(pool) - 1, unique=True))
    chosen = least(pool).pick(avoid)
    assert chosen is not None
    lowest = min((one.in_flight + 1) / one.weight for one in pool if one not in avoid)
    assert (chosen.in_flight + 1) / chosen.weight == pytest.approx(lowest)


def test_equals_take_turns() -> None:
    assert picks(least(servers("abc")), 7) == list("abcabca")
    assert picks(least(servers("abc"), start=1), 3) == list("bca")
    busy = [Server(name, 2, in_flight=3) for name in "abc"]
    assert picks(least(busy), 7) == list("abcabca")


def test_among_equals_whoever_was_served_longest_ago() -> None:
    pool = servers("abc")
    _, b, c = pool
    balancer = least(pool)
    b.in_flight = c.in_flight = 1
    assert picks(balancer, 2) == ["a", "a"]
    b.in_flight = c.in_flight = 0
    assert picks(balancer, 3) == ["b", "c", "a"]


def test_requests_that_stay_spread_by_weight() -> None:
    pool = servers("abc", (1, 2, 5))
    balancer = least(pool)
    for _ in range(80):
        chosen = balancer.pick()
        assert chosen is not None
        chosen.in_flight += 1
    assert [one.in_flight for one in pool] == [10, 20, 50]


def test_a_light_one_waits_until_the_heavy_ones_are_busy() -> None:
    heavy, light = pool = servers("hl", (1.0, 0.1))
    balancer = least(pool)
    assert picks(balancer, 3) == ["h"] * 3
    heavy.in_flight = 8
    assert picks(balancer, 1) == ["h"]
    heavy.in_flight = 10
    assert picks(balancer, 1) == ["l"]
    light.weight = 1.0
    balancer.reweigh()
    heavy.in_flight = 1
    assert picks(balancer, 3) == ["l"] * 3


@pytest.mark.parametrize("taken", range(5))
def test_a_change_of_members_keeps_the_turns(taken: int) -> None:
    pool = servers("abcd")
    balancer = least(pool)
    before = picks(balancer, taken)
    balancer.update([*pool[1:], Server("x")])
    after = picks(balancer, 8)
    assert longest_run(name for name in before + after if name in "bcd") == 1
    assert Counter(after) == dict.fromkeys("bcdx", 2)
