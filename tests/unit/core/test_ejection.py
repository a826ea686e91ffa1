"""The ejection machine: every cell of its table, how long it lasts, and what ends it early."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from lbctl.core.ejection import TRANSITIONS, Ejection, Event, Terms, Verdict
from lbctl.model import Failure

IN, SPARED, OUT = Verdict
TERMS = Terms()
NOW = 1000.0

CELLS = [
    # verdict, a row of failures, the same with too few left, its end
    (IN, OUT, SPARED, IN),
    (SPARED, OUT, SPARED, IN),
    (OUT, OUT, OUT, IN),
]


def in_verdict(verdict: Verdict) -> Ejection:
    if verdict is IN:
        return Ejection()
    return Ejection().failing(Failure.ANSWER, TERMS, NOW, allowed=verdict is OUT)


def ejected(times: int, cause: Failure = Failure.ANSWER) -> tuple[Ejection, float]:
    """Out for the so manyth time, each right after the one before; and since when."""
    one, now = Ejection(), NOW
    for _ in range(times - 1):
        one = one.failing(cause, TERMS, now, allowed=True)
        now = one.ends_s
        one = one.at(TERMS, now)
        assert one.verdict is IN
    return one.failing(cause, TERMS, now, allowed=True), now


def test_the_table_has_every_cell() -> None:
    assert set(TRANSITIONS) == set(itertools.product(Verdict, Event))


@pytest.mark.parametrize(("before", "struck", "spared", "over"), CELLS)
def test_every_cell(before: Verdict, struck: Verdict, spared: Verdict, over: Verdict) -> None:
    one = in_verdict(before)
    assert one.verdict is before
    assert one.failing(Failure.ANSWER, TERMS, NOW, allowed=True).verdict is struck
    assert one.failing(Failure.ANSWER, TERMS, NOW, allowed=False).verdict is spared
    assert one.at(TERMS, NOW + 30).verdict is over


@pytest.mark.parametrize("verdict", [SPARED, OUT])
def test_nothing_ends_before_its_time(verdict: Verdict) -> None:
    one = in_verdict(verdict)
    assert one.at(TERMS, NOW + 29.9) is one


@pytest.mark.parametrize(
    ("times", "lasts_s"), [(1, 30), (2, 60), (3, 90), (10, 300), (11, 300), (50, 300)]
)
def test_each_time_it_is_out_for_longer_up_to_the_limit(times: int, lasts_s: float) -> None:
    one, since = ejected(times)
    assert (one.lasts_s, one.ends_s) == (lasts_s, since + lasts_s)


@pytest.mark.parametrize(
    ("well_s", "lasts_s"), [(0, 120), (29.9, 120), (30, 90), (60, 60), (90, 30), (9000, 30)]
)
def test_one_is_forgotten_for_each_period_without_another(well_s: float, lasts_s: float) -> None:
    one, _ = ejected(3)
    back_s = one.ends_s
    one = one.at(TERMS, back_s)
    again = one.failing(Failure.ANSWER, TERMS, back_s + well_s, allowed=True)
    assert again.lasts_s == lasts_s


def test_a_limit_below_the_base_is_the_limit() -> None:
    one = Ejection().failing(Failure.ANSWER, replace(TERMS, limit_s=5), NOW, allowed=True)
    assert one.lasts_s == 5


def test_a_row_that_is_told_again_changes_nothing_while_it_is_out() -> None:
    one, since = ejected(1)
    assert one.failing(Failure.CONNECT, TERMS, since + 1, allowed=True) is one


def test_one_that_is_spared_again_is_spared_for_longer() -> None:
    one = in_verdict(SPARED).failing(Failure.ANSWER, TERMS, NOW + 10, allowed=False)
    assert one.at(TERMS, NOW + 39).verdict is SPARED
    assert one.at(TERMS, NOW + 40).verdict is IN


def test_being_spared_does_not_count() -> None:
    spared = in_verdict(SPARED)
    assert spared.failing(Failure.ANSWER, TERMS, NOW, allowed=True).lasts_s == 30
    assert spared.at(TERMS, NOW + 30).times == 0


@pytest.mark.parametrize(
    ("cause", "checks", "verdict"),
    [
        (Failure.CONNECT, "+", OUT),
        (Failure.CONNECT, "++", IN),
        (Failure.TIMEOUT, "++", IN),
        (Failure.TIMEOUT, "+-+", OUT),  # an opposite result starts the count anew
        (Failure.TIMEOUT, "-+++", IN),
        (Failure.ANSWER, "+++++", OUT),  # checks do not see what was wrong
    ],
)
def test_checks_may_end_it_early(cause: Failure, checks: str, verdict: Verdict) -> None:
    one, since = ejected(1, cause)
    for check in checks:
        one = one.checked(check == "+")
    assert one.at(TERMS, since + 1).verdict is verdict


def test_checks_from_before_do_not_count() -> None:
    one = Ejection().checked(True).checked(True).failing(Failure.CONNECT, TERMS, NOW, allowed=True)
    assert one.at(TERMS, NOW).verdict is OUT


@pytest.mark.parametrize(
    ("left", "known", "percent", "allowed"),
    [
        (2, 3, 50, True),
        (1, 3, 50, False),
        (1, 2, 50, True),
        (0, 1, 50, False),
        (0, 1, 0, True),
        (2, 3, 100, False),
    ],
)
def test_the_floor(left: int, known: int, percent: float, allowed: bool) -> None:
    assert replace(TERMS, floor_percent=percent).allows(left, known) is allowed
