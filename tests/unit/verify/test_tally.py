"""Requests counted into windows, on a clock that the test moves."""

from __future__ import annotations

from lbctl.verify.answers import Kind
from lbctl.verify.tally import Failure, Group, Tally, group


def failure(kind: Kind = Kind.RESET, backend: str = "", detail: str = "") -> Failure:
    return Failure(kind, detail, backend, 0, 1.0, 2.0)


def test_a_request_counts_where_it_ends() -> None:
    tally = Tally(10.0)
    tally.answered(10.0, 10.5)
    tally.failed(failure())
    first = tally.turn(11.0)
    tally.answered(10.0, 11.25)
    second = tally.turn(11.25)
    assert (first.requests, first.answered, len(first.failures)) == (2, 1, 1)
    assert (second.requests, second.answered, second.failures) == (1, 1, [])
    assert first.slowest_s == 0.5
    assert second.slowest_s == 1.25


def test_the_longest_gap_is_between_answers_of_any_connection() -> None:
    tally = Tally(0.0)
    for moment_s in (0.5, 2.0, 2.25):
        tally.answered(0.0, moment_s)
    assert tally.turn(3.0).longest_gap_s == 1.5


def test_a_gap_that_goes_on_counts_in_both_windows() -> None:
    tally = Tally(0.0)
    assert tally.turn(4.0).longest_gap_s == 4.0
    tally.answered(5.0, 6.0)
    assert tally.turn(6.0).longest_gap_s == 6.0


def test_a_failure_is_no_answer() -> None:
    tally = Tally(0.0)
    tally.failed(failure())
    assert tally.turn(2.0).longest_gap_s == 2.0


def test_failures_that_look_the_same_are_one_group_with_a_name() -> None:
    groups = group(
        [
            failure(),
            failure(Kind.STATUS, "127.0.0.9", "500"),
            failure(Kind.STATUS, "127.0.0.9", "500"),
        ],
        {"127.0.0.9": "web-1"},
    )
    assert groups == (Group(Kind.STATUS, "500", "web-1", 2), Group(Kind.RESET, "", "", 1))
    assert [one.text for one in groups] == ["2 x status 500 from web-1", "1 x connection reset"]
