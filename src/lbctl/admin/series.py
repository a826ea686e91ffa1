"""The last minutes of what was measured, kept so that a page which opens now has them at once."""

from __future__ import annotations

from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MEASURED = ("requests_per_second", "error_ratio", "p50_ms", "p99_ms")
SPAN = 180
"""Samples that it goes back, of one second each."""


class Series:
    """What was measured at each of the last SPAN beats, oldest first; None before there was one."""

    def __init__(self) -> None:
        blank: tuple[float | None, ...] = (None,) * len(MEASURED)
        self._points = deque(repeat(blank, SPAN), SPAN)

    def add(self, measured: Mapping[str, Any]) -> None:
        self._points.append(tuple(measured[name] for name in MEASURED))

    @property
    def columns(self) -> dict[str, list[float | None]]:
        """By name of what was measured."""
        return {
            name: [point[place] for point in self._points] for place, name in enumerate(MEASURED)
        }

    @property
    def present(self) -> dict[str, float | None]:
        """What was measured last, by name."""
        return dict(zip(MEASURED, self._points[-1], strict=True))
