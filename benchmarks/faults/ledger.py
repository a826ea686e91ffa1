"""What the clients saw, request by request, and the figures that come of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HUNG = "hung"
"""The failure of a request that was given up: no answer in time."""
SLOW_S = 0.5
"""A good answer that took longer shows that the balancer still tried a backend that is gone: a
try that meets none is over at once, one that meets a silent one waits for a timeout.
"""
SETTLED_S = 1.0
"""So long before the end the last trouble has to be, to be over."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `failure` is "" if it was answered as it should be, else the kind: HUNG, a
    status ("502"), or what became of its connection.
    """

    sent_s: float
    ended_s: float
    failure: str = ""

    @property
    def took_s(self) -> float:
        return self.ended_s - self.sent_s


@dataclass(frozen=True, slots=True)
class Figures:
    """What a disturbance cost.

    `failed` has the requests that failed, by kind, without the `hung` ones. `longest_gap_s` is
    the longest time in which no client at all was answered, `slowest_s` the slowest good answer.
    `trouble_s`: so long after the disturbance began, the last request was sent that then failed
    or was slow. That is how long clients met what was disturbed, of the `watched_s` in which
    requests were sent.
    """

    requests: int
    failed: dict[str, int]
    hung: int
    longest_gap_s: float
    slowest_s: float
    trouble_s: float
    watched_s: float

    @property
    def unsettled(self) -> bool:
        """Whether there was trouble to the end: how long it would have lasted is not known."""
        return self.trouble_s > self.watched_s - SETTLED_S

    @property
    def lost(self) -> int:
        """Requests without a good answer."""
        return sum(self.failed.values()) + self.hung


def figures(asked: Iterable[Asked], began_s: float, ended_s: float) -> Figures:
    """Of all requests that were under way when the disturbance began, or were sent later.

    None is sent after `ended_s`; an answer may come later, and counts.
    """
    seen = [one for one in asked if one.ended_s >= began_s]
    kinds = Counter(one.failure for one in seen if one.failure)
    hung = kinds.pop(HUNG, 0)
    good = [one for one in seen if not one.failure]
    answered_s = sorted(one.ended_s for one in good if one.ended_s < ended_s)
    troubled_s = [one.sent_s for one in seen if one.failure or one.took_s > SLOW_S]
    return Figures(
        requests=len(seen),
        failed=dict(sorted(kinds.items())),
        hung=hung,
        longest_gap_s=max(
            later - earlier for earlier, later in pairwise([began_s, *answered_s, ended_s])
        ),
        slowest_s=max((one.took_s for one in good), default=0.0),
        trouble_s=max([began_s, *troubled_s]) - began_s,
        watched_s=ended_s - began_s,
    )
