"""What holds for every policy, whatever happens to its candidates."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.core.balancing import (
    ConsistentHash,
    LeastConnections,
    Policy,
    RoundRobin,
    TwoChoices,
    WeightedRoundRobin,
)
from lbctl.core.balancing.policy import requeued
from tests.unit.core.balancing.servers import WEIGHTS, Server, servers

if TYPE_CHECKING:
    from collections.abc import Callable


def hashing(pool: list[Server]) -> Policy[Server]:
    return ConsistentHash(lambda: sum(one.in_flight for one in pool))


ALL = {
    "round robin": lambda _: RoundRobin(),
    "weighted round robin": lambda _: WeightedRoundRobin(),
    "least connections": lambda _: LeastConnections(),
    "two choices": lambda _: TwoChoices(random.Random(1).random),
    "consistent hash": hashing,
}
every_policy = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


@every_policy
def test_nobody_there(make: Callable[[list[Server]], Policy[Server]]) -> None:
    pool: list[Server] = []
    policy = make(pool)
    assert policy.pick() is None
    policy.update(pool)
    policy.reweigh()
    assert policy.pick((), b"key") is None


@every_policy
def test_all_to_be_avoided(make: Callable[[list[Server]], Policy[Server]]) -> None:
    pool = servers("abc", (1, 2, 3))
    policy = make(pool)
    policy.update(pool)
    assert policy.pick(pool) is policy.pick(pool, b"key") is None
    assert policy.pick(pool[1:], b"key") is policy.pick(pool[1:]) is pool[0]


@every_policy
def test_one_gets_it_all(make: Callable[[list[Server]], Policy[Server]]) -> None:
    pool = servers("a", (0.1,))
    policy = make(pool)
    policy.update(pool)
    for load in range(50):
        pool[0].in_flight = load
        assert policy.pick() is policy.pick((), b"key") is pool[0]


@every_policy
def test_who_left_gets_nothing_and_who_came_gets_something(
    make: Callable[[list[Server]], Policy[Server]],
) -> None:
    a, b, c = pool = servers("abc")
    policy = make(pool)
    policy.update([a, b])
    assert {policy.pick((), b"%d" % key) for key in range(200)} == {a, b}
    policy.update([b, c])
    assert {policy.pick((), b"%d" % key) for key in range(200)} == {b, c}
    policy.update([])
    assert policy.pick() is policy.pick((), b"key") is None
    policy.update([c])
    assert policy.pick() is policy.pick((), b"key") is c


@every_policy
@given(data=st.data())
@settings(deadline=None)
def test_never_one_to_avoid_and_none_only_if_there_is_nobody_else(
    make: Callable[[list[Server]], Policy[Server]], data: st.DataObject
) -> None:
    pool = servers("abcdef")
    policy = make(pool)
    present: list[Server] = []
    some = st.lists(st.sampled_from(pool), unique=True)
    for _ in range(data.draw(st.integers(1, 12))):
        match data.draw(st.sampled_from(("update", "reweigh", "pick", "pick", "finish"))):
            case "update":
                present = data.draw(some)
                policy.update(present)
            case "reweigh":
                for one in present:
                    one.weight = data.draw(WEIGHTS)
                policy.reweigh()
            case "finish":
                for one in pool:
                    one.in_flight = data.draw(st.integers(0, one.in_flight))
            case _:
                avoid = data.draw(some)
                chosen = policy.pick(avoid, data.draw(st.binary(max_size=4)))
                allowed = [one for one in present if one not in avoid]
                assert chosen in allowed if allowed else chosen is None
                if chosen is not None:
                    chosen.in_flight += 1


@every_policy
@given(weights=st.lists(st.sampled_from((0.5, 1.0, 2.0, 5.0)), min_size=1, max_size=6))
@settings(deadline=None)
def test_everyone_can_be_reached(
    make: Callable[[list[Server]], Policy[Server]], weights: list[float]
) -> None:
    pool = servers("abcdef"[: len(weights)], weights)
    policy = make(pool)
    policy.update(pool)
    for number in range(400):  # requests that never end
        chosen = policy.pick((), b"%d" % number)
        assert chosen is not None
        chosen.in_flight += 1
    assert all(one.in_flight for one in pool)


@given(
    st.lists(st.integers(0, 9), unique=True),
    st.lists(st.integers(0, 9), unique=True),
)
def test_a_queue_keeps_its_order_and_newcomers_their_own(before: list[int], now: list[int]) -> None:
    queue = requeued(before, now)
    assert sorted(queue) == sorted(now)
    stayed = [one for one in before if one in now]
    assert queue[: len(stayed)] == stayed
    assert queue[len(stayed) :] == [one for one in now if one not in before]
