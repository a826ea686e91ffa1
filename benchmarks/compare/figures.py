"""Medians over the rounds, and ratios to another proxy of the same round."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.compare.results import Run

    Metric = Callable[[Run], float | None]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and between what the values lay."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """None if there is no value."""
    known = [value for value in values if value is not None]
    return Spread(median(known), min(known), max(known)) if known else None


def cpu_us(run: Run) -> float | None:
    """CPU time a request, of all the proxy's processes, in µs."""
    return None if run.cpu_s is None else run.cpu_s / run.requests * 1e6


def busiest_cpu_us(run: Run) -> float | None:
    """The same of its busiest process alone."""
    return None if run.busiest_cpu_s is None else run.busiest_cpu_s / run.requests * 1e6


def requests_per_s(run: Run) -> float:
    return run.requests / run.duration_s


def bytes_per_s(run: Run) -> float:
    """As they came, heads included."""
    return run.bytes / run.duration_s


def p50_ms(run: Run) -> float:
    return run.p50_us / 1000


def p99_ms(run: Run) -> float:
    return run.p99_us / 1000


def p999_ms(run: Run) -> float:
    return run.p999_us / 1000


class Turns:
    """The runs of one scenario, by proxy."""

    def __init__(self, runs: Iterable[Run], scenario: str) -> None:
        self._sound: dict[str, dict[int, Run]] = {}
        self._problems: dict[str, list[str]] = {}
        wrong: set[str] = set()
        for run in runs:
            if run.scenario != scenario:
                continue
            sound = self._sound.setdefault(run.peer, {})
            if run.problem:
                where = f"round {run.round}: " if run.round else "wrong answer: "
                self._problems.setdefault(run.peer, []).append(where + run.problem)
                wrong |= set() if run.round else {run.peer}
            else:
                sound[run.round] = run
        for peer in wrong:  # it is not known which of its answers were right
            self._sound[peer].clear()

    def __contains__(self, peer: str) -> bool:
        return peer in self._sound

    def sound(self, peer: str) -> int:
        """How many rounds count."""
        return len(self._sound.get(peer, {}))

    def problems(self, peer: str) -> Sequence[str]:
        """Why the others do not."""
        return self._problems.get(peer, [])

    def spread(self, peer: str, metric: Metric) -> Spread | None:
        return spread(map(metric, self._sound.get(peer, {}).values()))

    def ratio(self, peer: str, reference: str, metric: Metric) -> Spread | None:
        """To the reference of the same round; only rounds that count for both."""
        mine, theirs = self._sound.get(peer, {}), self._sound.get(reference, {})
        return spread(
            _divided(metric(mine[number]), metric(theirs[number]))
            for number in mine.keys() & theirs.keys()
        )


def _divided(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None
