"""Requests a second and p99 of the last seconds, out of counters that only grow."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbctl.model import DURATION_BUCKETS_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.model import BackendTraffic, TrafficTotals

WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class Rate:
    """One backend over the window; `p99_s` is None where nothing was answered in it."""

    requests_per_second: float
    p99_s: float | None


IDLE = Rate(0.0, None)


class RateWindow:
    """The last samples of the totals, oldest first, spanning at least `window_s` once so much
    time has passed. It has one owner, which feeds it at a steady pace.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, TrafficTotals]] = deque()

    def observe(self, now_s: float, totals: TrafficTotals) -> None:
        """Add a sample, taken at the monotonic time `now_s`."""
        self._samples.append((now_s, totals))
        while len(self._samples) > 2 and self._samples[1][0] <= now_s - self._window_s:
            self._samples.popleft()

    def rates(self, now_s: float, totals: TrafficTotals) -> dict[str, Rate]:
        """Each backend's rate from the window's start to `totals`, the counters now; by id."""
        return {id_: self._rate(id_, now_s, traffic) for id_, traffic in totals.backends.items()}

    def _rate(self, backend_id: str, now_s: float, traffic: BackendTraffic) -> Rate:
        since = self._first(backend_id)
        if since is None:
            return IDLE
        then_s, before = since
        elapsed_s = now_s - then_s
        requests = sum(traffic.codes) - sum(before.codes)
        if elapsed_s <= 0 or requests <= 0:
            return IDLE
        counts = [new - old for new, old in zip(traffic.buckets, before.buckets, strict=True)]
        return Rate(requests / elapsed_s, quantile(0.99, counts))

    def _first(self, backend_id: str) -> tuple[float, BackendTraffic] | None:
        """The oldest sample that has the backend. Not zero before that: after a restart of
        the controller the workers report everything they ever counted at once.
        """
        for then_s, totals in self._samples:
            traffic = totals.backends.get(backend_id)
            if traffic is not None:
                return then_s, traffic
        return None


def quantile(
    q: float, counts: Sequence[int], bounds_s: Sequence[float] = DURATION_BUCKETS_S
) -> float | None:
    """The `q`-quantile (0 to 1) of a histogram, in seconds; None where it is empty.

    `counts` is not cumulative, and has one entry more than the upper `bounds_s`. Within a bucket
    the observations are taken to be spread evenly; past the last bound that bound is all one
    knows, and is what is returned (as Prometheus' histogram_quantile does).
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank = q * total
    below = 0
    lower_s = 0.0
    for count, upper_s in zip(counts, bounds_s, strict=False):
        if count and below + count >= rank:
            return lower_s + (upper_s - lower_s) * max(rank - below, 0.0) / count
        below += count
        lower_s = upper_s
    return bounds_s[-1]
