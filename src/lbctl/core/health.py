"""What a row of health checks says about one backend, and when to check it again.

A result counts only within a row of its own kind: an opposite one starts the count anew.
`fall` failures in a row take a backend down, `rise` passes bring it back; one that has never
passed needs a single pass, since nothing speaks against it yet (AWS ALB does the same).

                 pass            the rise-th pass   failure        the fall-th failure
    NEW          HEALTHY         HEALTHY            NEW            NEW
    HEALTHY      HEALTHY         HEALTHY            FALLING        DOWN
    FALLING      HEALTHY         HEALTHY            FALLING        DOWN
    DOWN         RISING          HEALTHY            DOWN           DOWN
    RISING       RISING          HEALTHY            DOWN           DOWN
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Standing(Enum):
    """What the checks so far say."""

    NEW = "new"  # never passed one
    HEALTHY = "healthy"
    FALLING = "falling"  # failed some, fewer than `fall`: serves on
    DOWN = "down"
    RISING = "rising"  # down, passed some, fewer than `rise`


class Outcome(Enum):
    """One result, and whether it completes a row."""

    PASS = "pass"  # noqa: S105 - not a password
    RISEN = "risen"
    FAIL = "fail"
    FALLEN = "fallen"


TRANSITIONS: dict[tuple[Standing, Outcome], Standing] = {
    (Standing.NEW, Outcome.PASS): Standing.HEALTHY,
    (Standing.NEW, Outcome.RISEN): Standing.HEALTHY,
    (Standing.NEW, Outcome.FAIL): Standing.NEW,
    (Standing.NEW, Outcome.FALLEN): Standing.NEW,
    (Standing.HEALTHY, Outcome.PASS): Standing.HEALTHY,
    (Standing.HEALTHY, Outcome.RISEN): Standing.HEALTHY,
    (Standing.HEALTHY, Outcome.FAIL): Standing.FALLING,
    (Standing.HEALTHY, Outcome.FALLEN): Standing.DOWN,
    (Standing.FALLING, Outcome.PASS): Standing.HEALTHY,
    (Standing.FALLING, Outcome.RISEN): Standing.HEALTHY,
    (Standing.FALLING, Outcome.FAIL): Standing.FALLING,
    (Standing.FALLING, Outcome.FALLEN): Standing.DOWN,
    (Standing.DOWN, Outcome.PASS): Standing.RISING,
    (Standing.DOWN, Outcome.RISEN): Standing.HEALTHY,
    (Standing.DOWN, Outcome.FAIL): Standing.DOWN,
    (Standing.DOWN, Outcome.FALLEN): Standing.DOWN,
    (Standing.RISING, Outcome.PASS): Standing.RISING,
    (Standing.RISING, Outcome.RISEN): Standing.HEALTHY,
    (Standing.RISING, Outcome.FAIL): Standing.DOWN,
    (Standing.RISING, Outcome.FALLEN): Standing.DOWN,
}

_FIT = frozenset({Standing.HEALTHY, Standing.FALLING})


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Results in a row that change a backend's standing; both at least 1."""

    fall: int = 3
    rise: int = 2


@dataclass(frozen=True, slots=True)
class Health:
    """One backend's standing. `streak` results in a row were like the last, `passing` one."""

    standing: Standing = Standing.NEW
    streak: int = 0
    passing: bool = False

    @property
    def fit(self) -> bool:
        """Whether the checks let it serve."""
        return self.standing in _FIT

    def after(self, passed: bool, thresholds: Thresholds) -> Health:
        """The health once this result is in."""
        streak = self.streak + 1 if passed is self.passing else 1
        if passed:
            outcome = Outcome.RISEN if streak >= thresholds.rise else Outcome.PASS
        else:
            outcome = Outcome.FALLEN if streak >= thresholds.fall else Outcome.FAIL
        return Health(TRANSITIONS[self.standing, outcome], streak, passed)


@dataclass(frozen=True, slots=True)
class Pace:
    """How far apart checks are, in seconds; `jitter` is a fraction to either side."""

    interval_s: float = 2.0
    first_interval_s: float = 0.1
    first_period_s: float = 10.0
    jitter: float = 0.1


class Schedule:
    """When to check one backend again.

    The first check is due at once. Until one passes, or `first_period_s` is over, the next
    follow at `first_interval_s`: it is what makes joining fast. Then `interval_s`, for good.
    """

    __slots__ = ("_pace", "_settled", "_started_at")

    def __init__(self, pace: Pace, started_at: float) -> None:
        self._pace = pace
        self._started_at = started_at
        self._settled = False

    def delay_s(self, passed: bool, now: float, chance: float) -> float:
        """Seconds to the next check after this result. `chance` is uniform in [0, 1)."""
        pace = self._pace
        if passed or now - self._started_at >= pace.first_period_s:
            self._settled = True
        interval = pace.interval_s if self._settled else pace.first_interval_s
        return interval * (1 + pace.jitter * (2 * chance - 1))
