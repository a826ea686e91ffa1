"""The health machine: every cell of its table, and how rows of results count."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.health import TRANSITIONS, Health, Outcome, Pace, Schedule, Standing, Thresholds

NEW, HEALTHY, FALLING, DOWN, RISING = (
    Standing.NEW,
    Standing.HEALTHY,
    Standing.FALLING,
    Standing.DOWN,
    Standing.RISING,
)
THRESHOLDS = Thresholds(fall=3, rise=2)

CELLS = [
    # standing, pass, rise-th pass, failure, fall-th failure
    (NEW, HEALTHY, HEALTHY, NEW, NEW),
    (HEALTHY, HEALTHY, HEALTHY, FALLING, DOWN),
    (FALLING, HEALTHY, HEALTHY, FALLING, DOWN),
    (DOWN, RISING, HEALTHY, DOWN, DOWN),
    (RISING, RISING, HEALTHY, DOWN, DOWN),
]


def after(results: str, thresholds: Thresholds = THRESHOLDS) -> Health:
    health = Health()
    for result in results:
        health = health.after(result == "+", thresholds)
    return health


def test_the_table_has_every_cell() -> None:
    assert set(TRANSITIONS) == set(itertools.product(Standing, Outcome))


@pytest.mark.parametrize(("before", "passed", "risen", "failed", "fallen"), CELLS)
def test_every_cell(
    before: Standing, passed: Standing, risen: Standing, failed: Standing, fallen: Standing
) -> None:
    health = Health(before)
    assert health.after(True, Thresholds(fall=9, rise=9)).standing is passed
    assert health.after(True, Thresholds(fall=9, rise=1)).standing is risen
    assert health.after(False, Thresholds(fall=9, rise=9)).standing is failed
    assert health.after(False, Thresholds(fall=1, rise=9)).standing is fallen


@pytest.mark.parametrize(
    ("results", "standing"),
    [
        ("", NEW),
        ("----", NEW),
        ("+", HEALTHY),
        ("-----+", HEALTHY),
        ("+--", FALLING),
        ("+---", DOWN),
        ("+--+--", FALLING),  # an opposite result starts the count anew
        ("+---+", RISING),
        ("+---+-+", RISING),
        ("+---++", HEALTHY),
        ("+---++--", FALLING),
    ],
)
def test_rows(results: str, standing: Standing) -> None:
    assert after(results).standing is standing


@given(st.lists(st.booleans()), st.integers(min_value=1, max_value=5), st.integers(1, 5))
def test_goes_down_exactly_at_fall_in_a_row(results: list[bool], fall: int, rise: int) -> None:
    """Against the plainest model there is."""
    thresholds = Thresholds(fall=fall, rise=rise)
    health, fit, row = Health(), False, 0
    ever = False
    previous: bool | None = None
    for passed in results:
        row = row + 1 if passed is previous else 1
        previous = passed
        health = health.after(passed, thresholds)
        if passed and (not ever or row >= rise):
            fit = ever = True
        elif not passed and row >= fall:
            fit = False
        assert health.fit is fit


def test_a_newcomer_is_checked_often_until_it_passes() -> None:
    schedule = Schedule(Pace(jitter=0), started_at=100.0)
    assert schedule.delay_s(False, 100.1, 0.5) == 0.1
    assert schedule.delay_s(False, 100.3, 0.5) == 0.1
    assert schedule.delay_s(True, 100.4, 0.5) == 2.0
    assert schedule.delay_s(False, 100.5, 0.5) == 2.0


def test_one_that_never_passes_is_checked_often_for_a_while_only() -> None:
    schedule = Schedule(Pace(jitter=0), started_at=100.0)
    assert schedule.delay_s(False, 109.9, 0.5) == 0.1
    assert schedule.delay_s(False, 110.0, 0.5) == 2.0


@given(st.floats(min_value=0, max_value=1, exclude_max=True))
def test_jitter_stays_within_its_tenth(chance: float) -> None:
    schedule = Schedule(Pace(), started_at=0.0)
    assert 1.8 <= schedule.delay_s(True, 0.0, chance) <= 2.2
