"""Which processes hang, told by the heartbeats of their event loops.

A heartbeat comes from the very loop it vouches for. Whoever judges may stand still itself (a
machine that was suspended, a container that was paused), and then everybody looks silent: time
in which the judge was late counts for nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Pulse:
    """One process, in monotonic seconds; `beat_s` is 0.0 until its loop came by once."""

    started_s: float
    beat_s: float


class Watch:
    """Judges at a steady pace. A process that hangs is silent for `timeout_s`; one that starts
    has `start_s` until its first beat.
    """

    def __init__(self, timeout_s: float, start_s: float, interval_s: float) -> None:
        self._timeout_s = timeout_s
        self._start_s = start_s
        self._interval_s = interval_s
        self._judged_s: float | None = None
        self._patient_from_s = 0.0

    def hung(self, now_s: float, pulses: Mapping[K, Pulse]) -> list[K]:
        """Called every `interval_s`: those that are to be replaced."""
        late = self._judged_s is not None and now_s - self._judged_s > 2 * self._interval_s
        self._judged_s = now_s
        if late:
            self._patient_from_s = now_s
        return [key for key, pulse in pulses.items() if self._hangs(now_s, pulse)]

    def _hangs(self, now_s: float, pulse: Pulse) -> bool:
        if pulse.beat_s < pulse.started_s:  # none since it started
            since_s, allowed_s = pulse.started_s, self._start_s
        else:
            since_s, allowed_s = pulse.beat_s, self._timeout_s
        return now_s - max(since_s, self._patient_from_s) > allowed_s
