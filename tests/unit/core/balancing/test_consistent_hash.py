"""The same key to the same backend, within bounds."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.core.balancing import ConsistentHash
from lbctl.core.balancing.consistent_hash import POINTS
from tests.unit.core.balancing.servers import WEIGHTS, Server, picks, servers

KEYS = [b"10.0.%d.%d" % (number // 250, number % 250) for number in range(4_000)]


def hashing(pool: list[Server], *, bound: float = 1.25) -> ConsistentHash[Server]:
    balancer = ConsistentHash[Server](lambda: sum(one.in_flight for one in pool), bound=bound)
    balancer.update(pool)
    return balancer


def named(count: int) -> list[Server]:
    return servers([f"backend-{number}" for number in range(count)])


def homes(balancer: ConsistentHash[Server]) -> dict[bytes, str]:
    """Where each key goes while nothing is in flight."""
    return {key: chosen.name for key in KEYS if (chosen := balancer.pick((), key))}


def tolerance(share: float) -> float:
    """Four standard deviations: POINTS parts of a circle, and so many keys thrown at it."""
    return 4 * math.sqrt(share**2 / POINTS + share / len(KEYS))


# Where keys live.


@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_keys_spread_over_all(count: int) -> None:
    counts = Counter(homes(hashing(named(count))).values())
    assert len(counts) == count
    for number in counts.values():
        assert abs(number / len(KEYS) - 1 / count) < tolerance(1 / count)


def test_keys_spread_by_weight() -> None:
    counts = Counter(homes(hashing(servers("abc", (1, 2, 5)))).values())
    for name, share in {"a": 1 / 8, "b": 2 / 8, "c": 5 / 8}.items():
        assert abs(counts[name] / len(KEYS) - share) < 0.07


def test_the_same_on_every_worker_whatever_it_saw_before() -> None:
    pool = named(5)
    expected = homes(hashing(pool))
    others = named(5)
    random.Random(1).shuffle(others)
    grown = hashing(others[:1])
    grown.update([Server("leaves"), *others[1:3]])
    grown.update(others)
    assert homes(grown) == expected


def test_a_place_on_the_circle_is_a_promise() -> None:
    """The same in every run; a release that moved every key would empty every cache."""
    balancer = hashing(named(5))
    digits = [balancer.pick((), b"key-%d" % number) for number in range(10)]
    assert "".join(one.name[-1] for one in digits if one) == "1034044111"


# What a change of members moves.


@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_who_leaves_moves_its_own_keys_only(count: int) -> None:
    pool = named(count)
    balancer = hashing(pool)
    before = homes(balancer)
    balancer.update(pool[1:])
    after = homes(balancer)
    assert {before[key] for key in KEYS if before[key] != after[key]} == {pool[0].name}
    assert pool[0].name not in after.values()
    balancer.update(pool)
    assert homes(balancer) == before


@pytest.mark.parametrize("count", [1, 3, 10, 50])
def test_who_comes_takes_its_share_and_moves_nothing_else(count: int) -> None:
    pool = named(count + 1)
    balancer = hashing(pool[:-1])
    before = homes(balancer)
    balancer.update(pool)
    after = homes(balancer)
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {pool[-1].name}
    share = 1 / (count + 1)
    assert abs(len(moved) / len(KEYS) - share) < tolerance(share)


def test_the_keys_of_who_leaves_spread_over_the_others() -> None:
    pool = named(10)
    balancer = hashing(pool)
    before = homes(balancer)
    balancer.update(pool[1:])
    after = homes(balancer)
    heirs = Counter(after[key] for key in KEYS if before[key] == pool[0].name)
    assert len(heirs) == 9
    assert max(heirs.values()) < sum(heirs.values()) / 2


def test_a_ramp_grows_into_its_keys_and_takes_each_once() -> None:
    *old, newcomer = pool = named(4)
    balancer = hashing(old)
    before = homes(balancer)
    newcomer.weight = 0.1
    balancer.update(pool)
    had: set[bytes] = set()
    for tenths in range(1, 11):
        newcomer.weight = tenths / 10
        balancer.reweigh()
        now = homes(balancer)
        has = {key for key in KEYS if now[key] == newcomer.name}
        assert had <= has
        assert all(now[key] == before[key] for key in KEYS if key not in has)
        expected = newcomer.weight / (3 + newcomer.weight)
        assert abs(len(has) / len(KEYS) - expected) < 0.08
        had = has
    assert now == homes(hashing(pool))


def test_the_same_name_is_the_same_place() -> None:
    old, new = named(3), named(3)
    balancer = hashing(old)
    before = homes(balancer)
    balancer.update(new)
    assert homes(balancer) == before
    assert balancer.pick((), b"key") in new


# Bounds.


@given(
    st.lists(WEIGHTS, min_size=1, max_size=8),
    st.sampled_from((1.05, 1.25, 2.0)),
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=150),
)
@settings(deadline=None)
def test_nobody_gets_more_than_its_capacity(
    weights: list[float], bound: float, requests: list[tuple[int, bool]]
) -> None:
    pool = servers("abcdefgh"[: len(weights)], weights)
    balancer = hashing(pool, bound=bound)
    total = 0
    for key, ends in requests:
        chosen = balancer.pick((), b"key-%d" % key)
        assert chosen is not None
        capacity = math.ceil(bound * (total + 1) * chosen.weight / sum(weights))
        assert chosen.in_flight + 1 <= capacity
        if not ends:
            chosen.in_flight += 1
            total += 1


def test_a_key_that_everybody_asks_for_spills_over_in_one_order() -> None:
    pool = named(5)
    balancer = hashing(pool)
    order = []
    for _ in range(1000):
        chosen = balancer.pick((), b"hot")
        assert chosen is not None
        chosen.in_flight += 1
        if chosen.name not in order:
            order.append(chosen.name)
    # 1.25 times a fifth is a quarter: four are full, and the fifth need not do anything.
    assert sorted(one.in_flight for one in pool) == [0, 250, 250, 250, 250]
    for one in pool:
        one.in_flight = 0
    avoid: list[Server] = []
    for name in order:
        chosen = balancer.pick(avoid, b"hot")
        assert chosen is not None
        assert chosen.name == name
        avoid.append(chosen)


def test_capacity_goes_by_weight() -> None:
    pool = servers("abc", (1, 2, 5))
    balancer = hashing(pool)
    for key in (b"1", b"2", b"3", b"4"):
        for one in pool:
            one.in_flight = 0
        for total in range(200):
            chosen = balancer.pick((), key)
            assert chosen is not None
            assert chosen.in_flight < 1.25 * (total + 1) * chosen.weight / 8
            chosen.in_flight += 1


def test_a_key_comes_home_when_there_is_room() -> None:
    pool = named(3)
    balancer = hashing(pool)
    home = balancer.pick((), b"key")
    assert home is not None
    home.in_flight = 10
    away = balancer.pick((), b"key")
    assert away not in (None, home)
    home.in_flight = 0
    assert balancer.pick((), b"key") is home


def test_if_nobody_has_room_home_it_is() -> None:
    pool = named(5)
    balancer = ConsistentHash[Server](lambda: 0)
    balancer.update(pool)
    expected = [balancer.pick((), key) for key in KEYS[:20]]
    for one in pool:
        one.in_flight = 5
    assert [balancer.pick((), key) for key in KEYS[:20]] == expected


def test_the_lightest_of_all_can_still_be_reached() -> None:
    heavy, light = pool = servers("hl", (1000, 0.1))
    balancer = hashing(pool)
    assert all(balancer.pick([heavy], key) is light for key in KEYS[:20])


def test_if_all_others_are_to_be_avoided_a_full_one_serves() -> None:
    pool = named(3)
    balancer = hashing(pool)
    pool[0].in_flight = 100
    assert balancer.pick(pool[1:], b"key") is pool[0]


# Without a key.


def test_requests_without_a_key_take_turns() -> None:
    assert picks(hashing(servers("abc")), 7) == list("abcabca")
    pool = servers("ab", (1, 3))
    balancer = hashing(pool)
    assert Counter(picks(balancer, 40)) == {"a": 10, "b": 30}
    pool[0].weight = 3
    balancer.reweigh()
    assert Counter(picks(balancer, 40)) == {"a": 20, "b": 20}
