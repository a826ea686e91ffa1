"""What each disturbance may cost, and the verdict on what it did cost. Nothing here does IO.

| disturbance                                              | failed requests allowed         |
|----------------------------------------------------------|---------------------------------|
| a backend leaves, comes, dies, hangs; a reload; the      | none                            |
| controller or the guard is killed                        |                                 |
| a worker, or one lb of two, is killed                    | those in flight on it at that   |
|                                                          | moment, and no refused one      |

Lists are right within a second of each of them; a hung backend is noticed by its checks, which
takes as long as they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lbctl.verify.answers import BROKEN_OFF
from lbctl.verify.tally import group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbctl.verify.tally import Failure, Group, Window

LISTS_WITHIN_S: Final = 1.0

SAME_MOMENT_S: Final = 0.1
"""A process that is killed is gone at one moment; a busy client hears of it a little later on one
connection than on another."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a disturbance may cost. `in_flight` is how many requests, at most, may have been in
    flight on what it kills; 0 where none may fail. `lists_within_s` is None where nobody
    promised a time.
    """

    in_flight: int = 0
    lists_within_s: float | None = LISTS_WITHIN_S

    @property
    def allowed(self) -> str:
        """In words, for a table."""
        return f"in flight (<= {self.in_flight})" if self.in_flight else "0"


NOTHING_FAILS: Final = Promise()


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one disturbance.

    `lists_s` is when every list was right, counted from the disturbance; None where they were
    not, or (with `lists_problem` "") where nothing was to change. `problem` says why it did not
    end as it should: a command that failed, a stack that did not become what it had been.
    """

    window: Window
    retried: int
    lists_s: float | None = None
    lists_problem: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the timeline. A disturbance that does not apply here has a reason for that
    (`skipped`), and nothing else.
    """

    key: str
    title: str
    promise: Promise = NOTHING_FAILS
    seen: Seen | None = None
    groups: tuple[Group, ...] = ()
    broken: tuple[str, ...] = ()
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole timeline, and what it proves."""

    rows: tuple[Row, ...]

    @property
    def requests(self) -> int:
        return sum(row.seen.window.requests for row in self.rows if row.seen)

    @property
    def failed(self) -> int:
        return sum(len(row.seen.window.failures) for row in self.rows if row.seen)

    @property
    def retried(self) -> int:
        return sum(row.seen.retried for row in self.rows if row.seen)

    @property
    def longest_gap_s(self) -> float:
        return max((row.seen.window.longest_gap_s for row in self.rows if row.seen), default=0.0)

    @property
    def broken(self) -> tuple[str, ...]:
        """Each promise that was not held, in a line that says in which row."""
        lines = [f"{row.title}: {text}" for row in self.rows for text in row.broken]
        if not self.requests:
            lines.append("not one request was sent: this proves nothing")
        return tuple(lines)

    @property
    def held(self) -> bool:
        return not self.broken


def judged(key: str, title: str, promise: Promise, seen: Seen, names: Mapping[str, str]) -> Row:
    """The row of a disturbance that was seen through. `names` are the backends', by address."""
    groups = group(seen.window.failures, names)
    broken = [*_requests(promise, seen.window.failures, groups), *_lists(promise, seen)]
    if seen.problem:
        broken.append(seen.problem)
    return Row(key, title, promise, seen, groups, tuple(broken))


def _requests(promise: Promise, failures: Sequence[Failure], groups: Sequence[Group]) -> list[str]:
    if not failures:
        return []
    said = "; ".join(one.text for one in groups)
    if not promise.in_flight:
        return [f"{_count(len(failures))} failed, none may: {said}"]
    if any(one.kind not in BROKEN_OFF for one in failures):
        return [f"only what was in flight may break off: {said}"]
    if len(failures) > promise.in_flight:
        return [f"{_count(len(failures))} failed, {promise.in_flight} may: {said}"]
    if not of_one_moment(failures):
        return [f"not all that failed was in flight when it was killed: {said}"]
    return []


def of_one_moment(failures: Sequence[Failure]) -> bool:
    """Whether one death explains them: there is a moment at which all were in flight, each on a
    connection of its own.
    """
    if len({one.connection for one in failures}) < len(failures):
        return False
    last_began_s = max((one.began_s for one in failures), default=0.0)
    first_ended_s = min((one.ended_s for one in failures), default=0.0)
    return last_began_s <= first_ended_s + SAME_MOMENT_S


def _lists(promise: Promise, seen: Seen) -> list[str]:
    if seen.lists_problem:
        return [f"the lists did not become right: {seen.lists_problem}"]
    limit_s = promise.lists_within_s
    if seen.lists_s is not None and limit_s is not None and seen.lists_s > limit_s:
        return [f"the lists were right after {seen.lists_s:.2f} s, promised is {limit_s:g} s"]
    return []


def _count(requests: int) -> str:
    return f"{requests} request{'s' if requests != 1 else ''}"
