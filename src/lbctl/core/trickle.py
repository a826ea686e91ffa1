"""A bound on how often something is said, however often it happens."""

from __future__ import annotations


class Trickle:
    """`burst` at once, then `per_s` a second. Times are monotonic seconds."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = float(burst)
        self._seen_s: float | None = None
        self.held_back = 0
        """How many were not said since the last that was."""

    def may(self, now_s: float) -> bool:
        """Whether the next one may be said."""
        if self._seen_s is not None:
            gained = max(0.0, now_s - self._seen_s) * self._per_s
            self._left = min(float(self._burst), self._left + gained)
        self._seen_s = now_s
        if self._left < 1.0:
            self.held_back += 1
            return False
        self._left -= 1.0
        return True

    def said(self) -> int:
        """How many were held back before this one; the count begins anew."""
        held_back, self.held_back = self.held_back, 0
        return held_back
