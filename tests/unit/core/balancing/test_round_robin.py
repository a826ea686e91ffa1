"""Whose turn it is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lbctl.core.balancing import RoundRobin, WeightedRoundRobin
from tests.unit.core.balancing.servers import WEIGHTS, Server, longest_run, picks, servers


def turns(start: int, candidates: str) -> RoundRobin[str]:
    balancer: RoundRobin[str] = RoundRobin(start)
    balancer.update(candidates)
    return balancer


def weighted(pool: list[Server], start: int = 0) -> WeightedRoundRobin[Server]:
    balancer: WeightedRoundRobin[Server] = WeightedRoundRobin(start)
    balancer.update(pool)
    return balancer


def next_ones(balancer: RoundRobin[str], times: int) -> str:
    return "".join(balancer.pick() or "-" for _ in range(times))


# All alike.


def test_each_in_turn() -> None:
    assert next_ones(turns(0, "abc"), 7) == "abcabca"
    assert picks(weighted(servers("abc", (3, 3, 3))), 7) == list("abcabca")


def test_workers_begin_at_different_backends() -> None:
    assert [turns(start, "abc").pick() for start in range(4)] == ["a", "b", "c", "a"]
    assert [picks(weighted(servers("abc"), start), 1) for start in range(3)] == [
        ["a"],
        ["b"],
        ["c"],
    ]


def test_also_after_everyone_was_gone() -> None:
    balancer = turns(1, "abc")
    balancer.pick()
    balancer.update("")
    balancer.update("abc")
    assert next_ones(balancer, 3) == "bca"


def test_who_is_passed_over_keeps_the_turn() -> None:
    balancer = turns(0, "abc")
    assert balancer.pick(avoid="ab") == "c"
    assert next_ones(balancer, 3) == "abc"
    assert [balancer.pick(avoid="a") for _ in range(4)] == ["b", "c", "b", "c"]


@pytest.mark.parametrize("taken", range(5))
def test_nobody_is_skipped_or_served_twice_when_one_leaves(taken: int) -> None:
    for leaver in "abcde":
        balancer = turns(0, "abcde")
        served = next_ones(balancer, taken)
        balancer.update("abcde".replace(leaver, ""))
        then = ("abcde"[taken:] + served).replace(leaver, "")
        assert next_ones(balancer, 8) == then * 2


@pytest.mark.parametrize("taken", range(4))
def test_nobody_is_skipped_or_served_twice_when_one_comes(taken: int) -> None:
    for names in ("xabcd", "abxcd", "abcdx"):
        balancer = turns(0, "abcd")
        served = next_ones(balancer, taken)
        balancer.update(names)
        assert next_ones(balancer, 10) == ("abcd"[taken:] + served + "x") * 2


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcdef"), min_size=1), st.integers(1, 20))))
def test_whatever_changes_the_turns_stay_even(changes: list[tuple[set[str], int]]) -> None:
    balancer = turns(0, "")
    for candidates, times in changes:
        balancer.update(sorted(candidates))
        seen = Counter(balancer.pick() for _ in range(times))
        assert set(seen) <= candidates
        assert max(seen.values()) - min(seen[one] for one in candidates) <= 1


# By weight.


def test_weights_are_interleaved() -> None:
    sequence = picks(weighted(servers("abc", (5, 1, 1))), 70)
    assert sequence[:7] == list("abaacaa")
    assert Counter(sequence) == {"a": 50, "b": 10, "c": 10}
    assert longest_run(sequence) == 3


def test_many_light_ones_do_not_come_in_one_burst() -> None:
    light = [f"light-{number}" for number in range(100)]
    sequence = picks(weighted(servers(["heavy", *light], [100.0] + [1.0] * 100)), 1000)
    assert longest_run(sequence) <= 2
    assert longest_run(name == "heavy" for name in sequence) <= 2
    assert abs(sequence.count("heavy") - 500) <= 1


def test_workers_begin_at_different_places_of_the_schedule() -> None:
    pool = servers("abc", (5, 1, 1))
    firsts = {tuple(picks(weighted(pool, start), 7)) for start in range(7)}
    assert len(firsts) >= 3
    assert {sequence[0] for sequence in firsts} == {"a", "b", "c"}


@given(st.lists(WEIGHTS, min_size=1, max_size=12), st.integers(1, 300))
@example([0.2, 113.0], 300)
@example([1.0, 1.0, 107.0, 0.05], 300)
def test_everyone_has_the_exact_share_give_or_take_one(weights: list[float], times: int) -> None:
    pool = servers("abcdefghijkl"[: len(weights)], weights)
    balancer = weighted(pool)
    seen: Counter[str] = Counter()
    for number in range(1, times + 1):
        seen.update(picks(balancer, 1))
        for one in pool:
            assert abs(seen[one.name] - number * one.weight / sum(weights)) < 1 + 1e-6


def test_shares_hold_for_those_who_are_not_avoided() -> None:
    a, *others = pool = servers("abc", (2, 1, 4))
    balancer = weighted(pool)
    assert Counter(picks(balancer, 100, avoid=[a])) == {"b": 20, "c": 80}
    assert not set(picks(balancer, 10, avoid=others)) - {"a"}


def test_who_was_avoided_once_is_made_up_to() -> None:
    pool = servers("abc", (2, 1, 1))
    balancer = weighted(pool)
    sequence = []
    for number in range(400):
        sequence += picks(balancer, 1, avoid=pool[:1] if number % 10 == 0 else ())
    counts = Counter(sequence)
    assert abs(counts["a"] - 200) <= 2
    assert abs(counts["b"] - 100) <= 2


def test_who_was_avoided_for_long_does_not_come_in_a_burst() -> None:
    heavy, *_ = pool = servers("abc", (5, 1, 1))
    balancer = weighted(pool)
    picks(balancer, 500, avoid=[heavy])
    sequence = picks(balancer, 70)
    assert longest_run(sequence) <= 8
    assert abs(sequence.count("a") - 50) <= 4
    assert longest_run(sequence[14:]) <= 3


@pytest.mark.parametrize("taken", range(9))
def test_a_change_of_members_neither_skips_nor_repeats_those_who_stay(taken: int) -> None:
    pool = servers("abcd", (2, 1, 1, 1))
    balancer = weighted(pool)
    before = picks(balancer, taken)
    balancer.update([*pool[:3], Server("x", 2)])
    after = [name for name in picks(balancer, 12) if name in "bc"]
    rest = [name for name in before if name in "bc"]
    assert longest_run([*rest, *after]) == 1


def test_many_newcomers_do_not_push_the_others_aside() -> None:
    old = servers("abc")
    balancer = weighted(old)
    balancer.update([*old, *servers([f"new-{number}" for number in range(30)], [0.1] * 30)])
    sequence = picks(balancer, 60)  # 3 in 6 of the weight is the newcomers'
    assert abs(sum(name in "abc" for name in sequence) - 30) <= 3
    assert longest_run(name in "abc" for name in sequence) <= 5


def test_a_ramp_changes_shares_at_once_and_leaves_the_rotation_as_it_was() -> None:
    pool = servers("abc")
    c = pool[2]
    balancer = weighted(pool[:2])
    assert picks(balancer, 3) == list("aba")
    c.weight = 0.1
    balancer.update(pool)
    assert Counter(picks(balancer, 210)) == {"a": 100, "b": 100, "c": 10}
    c.weight = 0.5
    balancer.reweigh()
    shares = Counter(picks(balancer, 250))
    assert abs(shares["c"] - 50) <= 1
    c.weight = 1.0
    balancer.reweigh()
    rotation = picks(balancer, 3)
    assert sorted(rotation) == ["a", "b", "c"]
    assert picks(balancer, 30) == rotation * 10


def test_a_ramp_without_requests_does_not_touch_the_turns() -> None:
    pool = servers("abcd")
    balancer = weighted(pool)
    assert picks(balancer, 2) == list("ab")
    for weight in (0.5, 1.0):
        pool[3].weight = weight
        balancer.reweigh()
    assert picks(balancer, 5) == list("cdabc")


UNLIKE = st.permutations((0.1, 0.55, 1.0, 3.0)).map(lambda weights: weights[:3])


@given(st.lists(st.tuples(UNLIKE, st.integers(1, 9)), max_size=40))
def test_shares_add_up_however_often_weights_change(
    steps: list[tuple[list[float], int]],
) -> None:
    pool = servers("abc", (1, 2, 3))
    balancer = weighted(pool)
    seen: Counter[str] = Counter()
    due = dict.fromkeys("abc", 0.0)
    for weights, times in steps:
        for one, weight in zip(pool, weights, strict=True):
            one.weight = weight
        balancer.reweigh()
        seen.update(picks(balancer, times))
        for one in pool:
            due[one.name] += times * one.weight / sum(weights)
            assert abs(seen[one.name] - due[one.name]) < 2
