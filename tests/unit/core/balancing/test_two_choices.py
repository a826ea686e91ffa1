"""The better of two."""

from __future__ import annotations

import random
from collections import Counter
from math import sqrt

import pytest

from lbctl.core.balancing import TwoChoices
from tests.unit.core.balancing.servers import Server, picks, servers

TIMES = 20_000


def drawing(pool: list[Server], seed: int = 1) -> TwoChoices[Server]:
    balancer = TwoChoices[Server](random.Random(seed).random)
    balancer.update(pool)
    return balancer


def scripted(pool: list[Server], *chances: float) -> TwoChoices[Server]:
    balancer = TwoChoices[Server](iter(chances).__next__)
    balancer.update(pool)
    return balancer


def assert_shares(counts: Counter[str], shares: dict[str, float]) -> None:
    """Each within five standard deviations of a binomial draw."""
    for name, share in shares.items():
        margin = 5 * sqrt(TIMES * share * (1 - share))
        assert abs(counts[name] - TIMES * share) < margin, name


def test_without_load_shares_go_by_weight() -> None:
    assert_shares(Counter(picks(drawing(servers("abcd")), TIMES)), dict.fromkeys("abcd", 0.25))
    unequal = Counter(picks(drawing(servers("abc", (1, 2, 5))), TIMES))
    assert_shares(unequal, {"a": 1 / 8, "b": 2 / 8, "c": 5 / 8})


def test_new_weights_count_at_once() -> None:
    pool = servers("ab")
    balancer = drawing(pool)
    pool[0].weight = 0.1
    balancer.reweigh()
    assert_shares(Counter(picks(balancer, TIMES)), {"a": 0.1 / 1.1, "b": 1 / 1.1})


def test_with_load_the_lighter_of_the_two() -> None:
    a, b, c = pool = servers("abc")
    a.in_flight, b.in_flight, c.in_flight = 1, 2, 3
    # Of three pairs, a is in two and wins both; b wins the one with c.
    counts = Counter(picks(drawing(pool), TIMES))
    assert_shares(counts, {"a": 2 / 3, "b": 1 / 3})
    assert counts["c"] == 0


@pytest.mark.parametrize(
    ("first", "second", "pair"),
    [
        (0.0, 0.0, "ab"),
        (0.0, 0.99, "ad"),
        (0.3, 0.0, "ba"),
        (0.3, 0.34, "bc"),
        (0.99, 0.99, "dc"),
        (0.99, 0.0, "da"),
        (0.5, 0.5, "cb"),
    ],
)
def test_the_two_are_different(first: float, second: float, pair: str) -> None:
    pool = servers("abcd")
    by_name = {one.name: one for one in pool}
    assert scripted(pool, first, second).pick() is by_name[pair[0]]  # equals: the first drawn
    for one in pool:
        one.in_flight = 1
    assert scripted(pool, first, second).pick() is by_name[pair[0]]
    by_name[pair[0]].in_flight = 2
    assert scripted(pool, first, second).pick() is by_name[pair[1]]


def test_load_is_seen_beside_weight() -> None:
    light, heavy = pool = servers("lh", (1, 4))
    heavy.in_flight, light.in_flight = 2, 0  # 3/4 against 1
    assert set(picks(drawing(pool), 100)) == {"h"}
    heavy.in_flight = 4  # 5/4
    assert set(picks(drawing(pool), 100)) == {"l"}


def test_shares_among_those_who_are_not_avoided() -> None:
    pool = servers("abc", (1, 3, 6))
    counts = Counter(picks(drawing(pool), TIMES, avoid=pool[2:]))
    assert counts["c"] == 0
    assert_shares(counts, {"a": 1 / 4, "b": 3 / 4})


@pytest.mark.parametrize("weights", [[1.0] * 100, [1.0] * 50 + [4.0] * 50], ids=["equal", "mixed"])
def test_requests_that_stay_spread_far_better_than_by_one_choice(weights: list[float]) -> None:
    """100 a unit of weight: one choice leaves the fullest some 25 % over, two leave a few."""
    pool = servers([f"{number}" for number in range(100)], weights)
    balancer = drawing(pool)
    for _ in range(int(100 * sum(weights))):
        chosen = balancer.pick()
        assert chosen is not None
        chosen.in_flight += 1
    assert max(one.in_flight / one.weight for one in pool) < 106


def test_a_chance_at_the_edge_finds_somebody() -> None:
    almost = 1 - 2**-53
    for weights in ((0.1, 0.2, 0.3), (0.8, 0.1, 0.5), (0.1, 0.9, 0.5)):
        pool = servers("abc", weights)
        for chances in ((almost, almost), (0.0, almost), (0.5, almost), (almost, 0.0)):
            assert scripted(pool, *chances).pick() in pool
