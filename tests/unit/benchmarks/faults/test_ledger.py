"""benchmarks/faults/ledger.py"""

from __future__ import annotations

import pytest
from benchmarks.faults.ledger import HUNG, Asked, figures

BEGAN, ENDED = 100.0, 110.0


def good(sent_s: float, took_s: float = 0.01) -> Asked:
    return Asked(sent_s, sent_s + took_s)


def bad(sent_s: float, failure: str = "502", took_s: float = 0.01) -> Asked:
    return Asked(sent_s, sent_s + took_s, failure)


def steady(begin: float = BEGAN, end: float = ENDED) -> list[Asked]:
    """A good answer every 100 ms."""
    return [good(begin + number / 10) for number in range(int((end - begin) * 10))]


def test_nothing_lost() -> None:
    found = figures(steady(), BEGAN, ENDED)
    assert (found.requests, found.failed, found.hung, found.lost) == (100, {}, 0, 0)
    assert found.longest_gap_s == pytest.approx(0.1)
    assert found.slowest_s == pytest.approx(0.01)
    assert found.trouble_s == 0.0


def test_failures_are_counted_by_kind_and_hung_ones_apart() -> None:
    asked = [*steady(), bad(101), bad(102, "reset"), bad(103), bad(104, HUNG, took_s=5)]
    found = figures(asked, BEGAN, ENDED)
    assert found.failed == {"502": 2, "reset": 1}
    assert found.hung == 1
    assert found.lost == 4
    assert found.requests == 104


def test_what_was_in_flight_when_it_began_counts_and_what_had_ended_does_not() -> None:
    asked = [bad(99.0), bad(99.995, "closed"), *steady()]
    assert figures(asked, BEGAN, ENDED).failed == {"closed": 1}


def test_an_answer_after_the_end_counts_but_bounds_no_gap() -> None:
    found = figures([*steady(), bad(109.9, HUNG, took_s=5), good(109.95, 2.0)], BEGAN, ENDED)
    assert found.hung == 1
    assert found.slowest_s == pytest.approx(2.0)
    assert found.longest_gap_s == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("silent", "gap_s"),
    [((103.0, 105.0), 2.1), ((100.0, 101.5), 1.51), ((108.0, 110.0), 2.09), ((100.0, 110.0), 10)],
)
def test_the_gap_is_the_longest_time_without_any_good_answer(
    silent: tuple[float, float], gap_s: float
) -> None:
    first, last = silent
    asked = [*steady(BEGAN, first), bad((first + last) / 2), *steady(last, ENDED)]
    assert figures(asked, BEGAN, ENDED).longest_gap_s == pytest.approx(gap_s)


def test_trouble_lasts_until_the_last_failed_or_slow_request_was_sent() -> None:
    failed = [*steady(), bad(101, HUNG, took_s=5), bad(102)]
    assert figures(failed, BEGAN, ENDED).trouble_s == pytest.approx(2.0)
    slow = [*failed, good(103, took_s=1.0)]
    assert figures(slow, BEGAN, ENDED).trouble_s == pytest.approx(3.0)
    assert figures([*slow, good(104, took_s=0.4)], BEGAN, ENDED).trouble_s == pytest.approx(3.0)


def test_trouble_of_what_was_under_way_is_over_when_it_begins() -> None:
    assert figures([*steady(), bad(99.9, took_s=1.0)], BEGAN, ENDED).trouble_s == 0.0


@pytest.mark.parametrize(("last_s", "unsettled"), [(108.5, False), (109.5, True)])
def test_trouble_that_lasts_to_the_end_is_not_measured(last_s: float, *, unsettled: bool) -> None:
    found = figures([*steady(), good(last_s, took_s=1.0)], BEGAN, ENDED)
    assert found.watched_s == ENDED - BEGAN
    assert found.unsettled is unsettled


def test_no_request_at_all_is_one_gap() -> None:
    found = figures([], BEGAN, ENDED)
    assert (found.requests, found.lost, found.longest_gap_s) == (0, 0, ENDED - BEGAN)
