"""Taking a backend out because live requests fail on it (outlier ejection, after Envoy).

Checks ask one path every few seconds; requests tell at once, and of every path. A worker that
saw a row of failures says so; whether the backend goes out, and for how long, is decided here.

                 EJECT    SPARE     END
    IN           OUT      SPARED    IN
    SPARED       OUT      SPARED    IN
    OUT          OUT      OUT       IN

It is out for `base_s` times the ejections that still count, `limit_s` at most; one is forgotten
for each `base_s` in rotation since it came back. What was no answer at all may be over as soon
as the backend passes its checks again, so that a hung one is back when it answers; an answer of
5xx is not seen by checks, and only time helps. What is still being answered when a backend goes
out changes nothing any more: a row that is told again neither prolongs nor repeats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from lbctl.model import Failure


class Verdict(Enum):
    """What live requests made of a backend."""

    IN = "in"
    SPARED = "spared"  # would be out, but too few would be left
    OUT = "out"


class Event(Enum):
    """What moves a verdict."""

    EJECT = "eject"  # a row of failures, and enough others are left
    SPARE = "spare"  # a row of failures, and too few others are left
    END = "end"  # its time is over, or its checks speak for it


TRANSITIONS: dict[tuple[Verdict, Event], Verdict] = {
    (Verdict.IN, Event.EJECT): Verdict.OUT,
    (Verdict.IN, Event.SPARE): Verdict.SPARED,
    (Verdict.IN, Event.END): Verdict.IN,
    (Verdict.SPARED, Event.EJECT): Verdict.OUT,
    (Verdict.SPARED, Event.SPARE): Verdict.SPARED,
    (Verdict.SPARED, Event.END): Verdict.IN,
    (Verdict.OUT, Event.EJECT): Verdict.OUT,
    (Verdict.OUT, Event.SPARE): Verdict.OUT,
    (Verdict.OUT, Event.END): Verdict.IN,
}

_HEALED_BY_CHECKS = frozenset({Failure.CONNECT, Failure.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Terms:
    """For how long, and how far, backends are ejected.

    `failures` in a row are what a worker reports; at least `floor_percent` of the known backends
    stay in; `rise` checks passed in a row may end an ejection early.
    """

    failures: int = 5
    base_s: float = 30.0
    limit_s: float = 300.0
    floor_percent: float = 50.0
    rise: int = 2

    def allows(self, left: int, known: int) -> bool:
        """Whether one may go, if `left` of `known` backends then still serve."""
        return left * 100 >= self.floor_percent * known


@dataclass(frozen=True, slots=True)
class Ejection:
    """One backend's verdict. All times are monotonic seconds.

    `ends_s` and `lasts_s` are of the present verdict, if it is not IN; `times` are the ejections
    that counted when it last came back, at `back_s`.
    """

    verdict: Verdict = Verdict.IN
    cause: Failure = Failure.CONNECT
    ends_s: float = 0.0
    lasts_s: float = 0.0
    times: int = 0
    back_s: float = 0.0
    passes: int = 0  # checks in a row, since it went out

    def failing(self, cause: Failure, terms: Terms, now: float, *, allowed: bool) -> Ejection:
        """A worker reported a row of failures; `allowed` says whether enough others are left."""
        verdict = TRANSITIONS[self.verdict, Event.EJECT if allowed else Event.SPARE]
        if self.verdict is Verdict.OUT:
            return self
        if verdict is Verdict.SPARED:
            ends_s = now + terms.base_s
            return replace(self, verdict=verdict, cause=cause, ends_s=ends_s, lasts_s=terms.base_s)
        forgotten = int((now - self.back_s) // terms.base_s)
        times = max(0, self.times - forgotten) + 1
        lasts_s = min(terms.base_s * times, terms.limit_s)
        return Ejection(verdict, cause, now + lasts_s, lasts_s, times)

    def checked(self, passed: bool) -> Ejection:
        """A health check ended."""
        if self.verdict is not Verdict.OUT:
            return self
        return replace(self, passes=self.passes + 1 if passed else 0)

    def healed(self, terms: Terms) -> bool:
        """Whether its checks end it before its time."""
        out = self.verdict is Verdict.OUT
        return out and self.cause in _HEALED_BY_CHECKS and self.passes >= terms.rise

    def at(self, terms: Terms, now: float) -> Ejection:
        """What is left of it by now."""
        if self.verdict is Verdict.IN or (now < self.ends_s and not self.healed(terms)):
            return self
        verdict = TRANSITIONS[self.verdict, Event.END]
        if self.verdict is Verdict.SPARED:
            return Ejection(verdict, times=self.times, back_s=self.back_s)
        return Ejection(verdict, times=self.times, back_s=now)
