"""Slow start: a newcomer's weight grows to its full size, so that cold caches, pools and
just-in-time compilers are not met by a full share at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from lbctl.core.balancing.policy import T

if TYPE_CHECKING:
    from collections.abc import Collection

LEAST = 0.1


def ramp(age_s: float, period_s: float, least: float = LEAST) -> float:
    """The part of its weight that counts: from `least` at age 0 straight to 1 at `period_s`."""
    if age_s >= period_s:
        return 1.0
    return least + (1 - least) * max(age_s, 0.0) / period_s


class SlowStart(Generic[T]):
    """Who is still on the way to full weight.

    While nobody has been there for a whole period, newcomers start at once: in a new pool
    somebody has to do all of the work, and none of them is warmer than the others. Its truth is
    false while nobody ramps, so that a full pool costs one look.
    """

    __slots__ = ("_period_s", "_since", "_started")

    def __init__(self, period_s: float) -> None:
        """`period_s`: of a ramp; 0 for none."""
        self._period_s = period_s
        self._since: dict[T, float] = {}  # all members, and when they came
        self._started: dict[T, float] = {}

    def __bool__(self) -> bool:
        return bool(self._started)

    def update(self, members: Collection[T], now: float) -> None:
        """These are the members now; `now` in monotonic seconds, as everywhere here.

        The newcomers among them start here: ask factors() next.
        """
        before = self._since
        self._since = {one: before.get(one, now) for one in members}
        self._started = {one: at for one, at in self._started.items() if one in self._since}
        if any(now - since >= self._period_s > 0 for since in self._since.values()):
            self._started |= {one: now for one in members if one not in before}

    def factors(self, now: float) -> dict[T, float]:
        """What to multiply the weight of each one on its way by; those who have arrived are in
        it with 1.0 a last time.
        """
        factors = {one: ramp(now - at, self._period_s) for one, at in self._started.items()}
        for one, factor in factors.items():
            if factor >= 1:
                del self._started[one]
        return factors
