"""Whether a series of measurements grows, or only wavers.

Two robust estimates have to agree before anything is called growth: the slope of Theil and Sen
(the median of the slopes between all pairs of points; up to 29 % of them may be outliers), taken
over the whole time, and the difference between the medians of the last and the first quarter.
A single step, or one lucky quarter, convinces only one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_POINTS = 8
"""Fewer say nothing about a trend."""


@dataclass(frozen=True, slots=True)
class Trend:
    """What a series did from its first to its last point, in the units of its values."""

    first: float  # median of the first quarter
    last: float  # median of the last quarter
    rise: float  # slope times duration
    highest: float

    def grows(self, tolerance: float) -> bool:
        """Whether both estimates are above what is tolerated."""
        return min(self.rise, self.last - self.first) > tolerance


def trend(times_s: Sequence[float], values: Sequence[float]) -> Trend:
    """The trend of `values`, measured at `times_s` (rising). Raises ValueError below
    MIN_POINTS.
    """
    if len(values) < MIN_POINTS:
        raise ValueError(f"{len(values)} measurements, fewer than {MIN_POINTS}, show no trend")
    points = list(zip(times_s, values, strict=True))
    slope = median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2))
    quarter = len(values) // 4
    return Trend(
        first=median(values[:quarter]),
        last=median(values[-quarter:]),
        rise=slope * (times_s[-1] - times_s[0]),
        highest=max(values),
    )
