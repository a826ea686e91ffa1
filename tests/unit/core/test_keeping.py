"""What the guard does, told from facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lbctl.core.keeping import Piece, Remedy, remedies

NOW = 1_000.0
POD = Piece("p", "x-pod", True, True, "2026-01-01T00:00:10Z", "")
LB = Piece("a", "x-lb-a", False, True, "2026-01-01T00:00:11Z", "", joins="p")
OTHER = Piece("b", "x-lb-b", False, True, "2026-01-01T00:00:12Z", "", joins="p")
EARLIER = "2026-01-01T00:00:09Z"


def names(
    *pieces: Piece,
    stopped: frozenset[str] = frozenset(),
    moved: frozenset[tuple[str, str]] = frozenset(),
) -> list[tuple[str, str]]:
    found = remedies(pieces, stopped, moved, NOW, grace_s=2.0)
    return [(remedy.value, piece.id) for remedy, piece in found]


def dead(piece: Piece, *, status: int = 137, ago_s: float = 5.0, error: str = "") -> Piece:
    return replace(piece, running=False, exit_status=status, exited_at=NOW - ago_s, error=error)


def test_nothing_is_done_where_all_is_well() -> None:
    assert names(POD, LB, OTHER) == []


@pytest.mark.parametrize(
    ("lb", "expected"),
    [
        (dead(LB), [("start", "a")]),
        (dead(LB, ago_s=1.0), []),  # the engine may be about to do it, or to say `stop`
        (dead(LB, status=0), []),  # it was told to end
        (dead(LB, status=0, error="cannot join network"), [("start", "a")]),
        (dead(LB, ago_s=0.0, error="cannot join network"), [("start", "a")]),
        (dead(replace(LB, started_at=""), status=0), []),  # being made right now
        (replace(LB, started_at=EARLIER), [("restart", "a")]),
    ],
)
def test_an_lb(lb: Piece, expected: list[tuple[str, str]]) -> None:
    assert names(POD, lb, OTHER) == expected


def test_whom_somebody_stopped_is_left_alone() -> None:
    assert names(POD, dead(LB), OTHER, stopped=frozenset("a")) == []
    assert names(dead(POD), LB, stopped=frozenset("p")) == []


def test_the_pod_comes_first_and_the_others_after_it() -> None:
    assert names(dead(POD), dead(LB), OTHER) == [("start", "p")]
    again = replace(POD, started_at="2026-01-01T00:00:20Z")
    assert names(again, dead(LB), OTHER) == [("start", "a"), ("restart", "b")]


def test_an_order_of_remedies_is_stable() -> None:
    both = dead(OTHER), dead(LB)
    assert [piece.id for _, piece in remedies([*both, POD], (), (), NOW, 2.0)] == ["a", "b"]
    assert remedies([*both, POD], (), (), NOW, 2.0)[0][0] is Remedy.START


def test_a_clock_that_was_set_back_restarts_nobody_twice() -> None:
    early = replace(LB, started_at=EARLIER)  # and so it stays, however often it is restarted
    assert names(POD, early) == [("restart", "a")]
    assert names(POD, early, moved=frozenset({("a", POD.started_at)})) == []
    again = replace(POD, started_at="2026-01-01T00:00:20Z")
    assert names(again, early, moved=frozenset({("a", POD.started_at)})) == [("restart", "a")]


def test_only_the_own_pod_counts() -> None:
    other = replace(POD, id="q", name="x-pod-next", started_at="2026-01-01T00:00:20Z")
    assert names(POD, other, LB) == []
