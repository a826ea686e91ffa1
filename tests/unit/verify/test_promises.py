"""What breaks a promise, and what does not."""

from __future__ import annotations

import pytest

from lbctl.verify.answers import Kind
from lbctl.verify.promises import (
    NOTHING_FAILS,
    SAME_MOMENT_S,
    Promise,
    Row,
    Seen,
    Verdict,
    judged,
    of_one_moment,
)
from lbctl.verify.tally import Failure, Window

WORKER = Promise(in_flight=2)


def failure(
    kind: Kind = Kind.RESET, *, on: int = 0, began_s: float = 1.0, ended_s: float = 2.0
) -> Failure:
    return Failure(kind, "", "", on, began_s, ended_s)


def judge(
    promise: Promise,
    *failures: Failure,
    lists_s: float | None = 0.1,
    lists_problem: str = "",
    problem: str = "",
) -> Row:
    window = Window(answered=10, failures=list(failures))
    return judged("key", "title", promise, Seen(window, 0, lists_s, lists_problem, problem), {})


def test_nothing_failed_and_all_was_right() -> None:
    row = judge(NOTHING_FAILS)
    assert row.broken == ()
    assert Verdict((row,)).held


@pytest.mark.parametrize("kind", Kind)
def test_any_failure_breaks_a_promise_of_none(kind: Kind) -> None:
    row = judge(NOTHING_FAILS, failure(kind))
    assert row.broken == (f"1 request failed, none may: 1 x {kind.value}",)
    assert not Verdict((row,)).held


def test_a_killed_worker_may_cost_what_it_had_in_flight() -> None:
    row = judge(WORKER, failure(Kind.RESET, on=1), failure(Kind.CLOSED, on=2))
    assert row.broken == ()


@pytest.mark.parametrize(
    "kind", [Kind.REFUSED, Kind.UNCONNECTED, Kind.STATUS, Kind.LATE, Kind.CONTENT, Kind.MALFORMED]
)
def test_a_killed_worker_may_not_cost_another_kind(kind: Kind) -> None:
    (broken,) = judge(WORKER, failure(kind)).broken
    assert "only what was in flight may break off" in broken


def test_a_killed_worker_may_not_cost_more_than_its_share() -> None:
    (broken,) = judge(WORKER, *(failure(on=number) for number in range(3))).broken
    assert broken.startswith("3 requests failed, 2 may")


@pytest.mark.parametrize(
    "later",
    [
        failure(on=2, began_s=2.0 + SAME_MOMENT_S + 0.01, ended_s=3.0),  # after the death
        failure(on=1, began_s=1.5, ended_s=2.0),  # twice on one connection
    ],
)
def test_a_killed_worker_may_not_cost_what_came_later(later: Failure) -> None:
    (broken,) = judge(WORKER, failure(on=1), later).broken
    assert "was in flight when it was killed" in broken


def test_one_moment() -> None:
    assert of_one_moment([])
    assert of_one_moment([failure(on=1, began_s=0.0, ended_s=1.0), failure(on=2, began_s=1.0)])


def test_lists_that_are_late() -> None:
    assert judge(NOTHING_FAILS, lists_s=1.0).broken == ()
    assert judge(NOTHING_FAILS, lists_s=1.26).broken == (
        "the lists were right after 1.26 s, promised is 1 s",
    )
    assert judge(Promise(lists_within_s=None), lists_s=7.0).broken == ()


def test_lists_that_stay_wrong() -> None:
    for promise in (NOTHING_FAILS, Promise(lists_within_s=None)):
        (broken,) = judge(promise, lists_s=None, lists_problem="web-1 lags").broken
        assert broken == "the lists did not become right: web-1 lags"


def test_a_disturbance_that_fails() -> None:
    assert judge(NOTHING_FAILS, problem="it failed: no").broken == ("it failed: no",)


def test_a_row_that_does_not_apply_breaks_nothing() -> None:
    skipped = Row("kill-lb", "kill -9 one lb", skipped="there is one lb")
    verdict = Verdict((judge(NOTHING_FAILS), skipped))
    assert verdict.held
    assert verdict.requests == 10


def test_no_request_proves_nothing() -> None:
    assert Verdict(()).broken == ("not one request was sent: this proves nothing",)


def test_a_verdict_names_the_row_and_adds_up() -> None:
    verdict = Verdict((judge(NOTHING_FAILS, failure()), judge(NOTHING_FAILS)))
    assert verdict.broken == ("title: 1 request failed, none may: 1 x connection reset",)
    assert (verdict.requests, verdict.failed, verdict.retried) == (21, 1, 0)
