"""What the load has seen, cut into windows of time: one for each disturbance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl.verify.answers import Kind


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request, from its beginning to the moment it was known to have failed.

    `connection` tells the load's connections apart; `backend` is the address of the one that
    answered, "" where none did. Times are monotonic.
    """

    kind: Kind
    detail: str
    backend: str
    connection: int
    began_s: float
    ended_s: float


@dataclass(slots=True)
class Window:
    """A stretch of time. Requests belong to the window in which they ended."""

    answered: int = 0
    failures: list[Failure] = field(default_factory=list)
    longest_gap_s: float = 0.0  # between two answers, over all connections
    slowest_s: float = 0.0  # of the requests that were answered

    @property
    def requests(self) -> int:
        return self.answered + len(self.failures)


class Tally:
    """Counts into the present window. The clock is the caller's."""

    def __init__(self, now_s: float) -> None:
        self.window = Window()
        self._last_answer_s = now_s

    def answered(self, began_s: float, ended_s: float) -> None:
        """A request was answered as it should be."""
        window = self.window
        window.answered += 1
        window.slowest_s = max(window.slowest_s, ended_s - began_s)
        self._gap(ended_s)
        self._last_answer_s = ended_s

    def failed(self, failure: Failure) -> None:
        """A request failed."""
        self.window.failures.append(failure)

    def turn(self, now_s: float) -> Window:
        """End the present window and begin the next. A gap that goes on counts in both."""
        self._gap(now_s)
        ended, self.window = self.window, Window()
        return ended

    def _gap(self, now_s: float) -> None:
        self.window.longest_gap_s = max(self.window.longest_gap_s, now_s - self._last_answer_s)


@dataclass(frozen=True, slots=True)
class Group:
    """Failures that look the same. `backend` is a name where the address is known."""

    kind: Kind
    detail: str
    backend: str
    count: int

    @property
    def text(self) -> str:
        said = f"{self.count} x {self.kind.value} {self.detail}".rstrip()
        return f"{said} from {self.backend}" if self.backend else said


def group(failures: Iterable[Failure], names: Mapping[str, str]) -> tuple[Group, ...]:
    """The failures by how they look, most frequent first. `names` are the backends', by address."""
    counted = Counter(
        (one.kind, one.detail, names.get(one.backend, one.backend)) for one in failures
    )
    return tuple(Group(*which, count) for which, count in counted.most_common())
