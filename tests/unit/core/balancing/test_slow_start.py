"""How a newcomer grows."""

from __future__ import annotations

from collections import Counter

import pytest

from lbctl.core.balancing import WeightedRoundRobin
from lbctl.core.balancing.slow_start import SlowStart, ramp
from tests.unit.core.balancing.servers import Server, picks, servers


@pytest.mark.parametrize(
    ("age_s", "part"),
    [(-1, 0.1), (0, 0.1), (1, 0.19), (5, 0.55), (9, 0.91), (10, 1), (11, 1), (1e9, 1)],
)
def test_a_straight_line_from_a_tenth_to_one(age_s: float, part: float) -> None:
    assert ramp(age_s, 10) == pytest.approx(part)


def test_another_beginning() -> None:
    assert ramp(0, 10, least=0.5) == 0.5
    assert ramp(5, 10, least=0.5) == 0.75


def test_no_period_is_no_ramp() -> None:
    assert ramp(0, 0) == 1
    starting: SlowStart[str] = SlowStart(0)
    starting.update("a", 0)
    starting.update("ab", 0)
    assert not starting


def test_the_first_of_an_empty_pool_start_at_once() -> None:
    starting: SlowStart[str] = SlowStart(10)
    assert not starting
    starting.update("ab", 100)
    assert not starting
    assert starting.factors(100) == {}
    starting.update("", 101)
    starting.update("ab", 102)
    assert not starting


def test_newcomers_ramp_and_the_others_do_not() -> None:
    starting: SlowStart[str] = SlowStart(10)
    starting.update("ab", 100)
    starting.update("abc", 200)
    assert starting
    assert starting.factors(200) == {"c": pytest.approx(0.1)}
    starting.update("abcd", 205)
    assert starting.factors(205) == {"c": pytest.approx(0.55), "d": pytest.approx(0.1)}
    starting.update("abcd", 206)  # a change of something else
    assert starting.factors(210) == {"c": 1, "d": pytest.approx(0.55)}
    assert starting.factors(210) == {"d": pytest.approx(0.55)}
    assert starting.factors(1000) == {"d": 1}
    assert not starting


def test_in_a_new_pool_who_comes_a_little_later_starts_at_once_too() -> None:
    starting: SlowStart[str] = SlowStart(10)
    starting.update("a", 0)
    starting.update("ab", 0.01)
    starting.update("abc", 9.9)
    assert not starting
    starting.update("abcd", 10.0)  # a is warm now
    assert starting.factors(10.0) == {"d": pytest.approx(0.1)}


def test_who_leaves_on_the_way_is_forgotten_and_starts_anew() -> None:
    starting: SlowStart[str] = SlowStart(10)
    starting.update("a", -10)
    starting.update("ab", 0)
    assert starting
    starting.update("a", 5)
    assert not starting
    starting.update("ab", 6)
    assert starting.factors(6) == {"b": pytest.approx(0.1)}


def test_the_share_of_a_ramping_one() -> None:
    """1000 picks a second for the ten seconds of a ramp: the newcomer's part is the integral."""
    old, newcomer = servers("ab"), Server("new")
    members = [*old, newcomer]
    starting: SlowStart[Server] = SlowStart(10)
    balancer: WeightedRoundRobin[Server] = WeightedRoundRobin()
    starting.update(old, -10)
    balancer.update(old)
    starting.update(members, 0)
    balancer.update(members)
    got, due = [], 0.0
    for tick in range(44):  # every 250 ms
        for one, factor in starting.factors(tick / 4).items():
            one.weight = factor
        balancer.reweigh()
        got.append(Counter(picks(balancer, 250))["new"])
        due += 250 * newcomer.weight / (2 + newcomer.weight)
        assert abs(sum(got) - due) < 2
    assert not starting
    assert got[0] == pytest.approx(250 * 0.1 / 2.1, abs=1)
    assert got[-1] == pytest.approx(250 / 3, abs=1)
