"""Requests a second, errors, p50 and p99 of the last seconds, out of counters that only grow."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbctl.model import CODE_CLASSES, DURATION_BUCKETS_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.model import BackendTraffic, TrafficTotals

WINDOW_S = 5.0
_5XX = CODE_CLASSES.index("5xx")

UNSERVED = frozenset(
    {
        "no_backend", "connect_failed", "connect_timeout", "unrouted", "upstream_closed",
        "bad_response", "response_head_too_large", "unasked_interim_response", "response_timeout",
    }
)  # fmt: skip
"""Reasons for which the lb answers 502, 503 or 504 itself because no backend did. Those it shares
with what a client may do wrong are left out.
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """One backend, or all, over the window. `error_ratio` (0 to 1) is the share of answers that are
    5xx; it and the quantiles are None where nothing was answered in the window.
    """

    requests_per_second: float
    p99_s: float | None
    p50_s: float | None = None
    error_ratio: float | None = None


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

    def overall(self, now_s: float, totals: TrafficTotals) -> Rate:
        """That of all backends together, gone ones included. What the lb answered itself for want
        of a backend is a request and an error too.
        """
        growths = [
            growth
            for id_, traffic in totals.backends.items()
            if (growth := self._growth(id_, now_s, traffic)) is not None
        ]
        unserved = self._unserved(now_s, totals)
        return _rate([*growths, *([unserved] if unserved is not None else [])])

    def _rate(self, backend_id: str, now_s: float, traffic: BackendTraffic) -> Rate:
        growth = self._growth(backend_id, now_s, traffic)
        return IDLE if growth is None else _rate([growth])

    def _growth(self, backend_id: str, now_s: float, traffic: BackendTraffic) -> _Growth | None:
        since = self._first(backend_id)
        if since is None:
            return None
        then_s, before = since
        requests = sum(traffic.codes) - sum(before.codes)
        if now_s <= then_s or requests <= 0:
            return None
        counts = [new - old for new, old in zip(traffic.buckets, before.buckets, strict=True)]
        failed = traffic.codes[_5XX] - before.codes[_5XX]
        return _Growth(now_s - then_s, requests, failed, counts)

    def _unserved(self, now_s: float, totals: TrafficTotals) -> _Growth | None:
        if not self._samples or now_s <= self._samples[0][0]:
            return None
        then_s, before = self._samples[0]
        count = sum(totals.refused.get(each, 0) - before.refused.get(each, 0) for each in UNSERVED)
        return _Growth(now_s - then_s, count, count, []) if count > 0 else None

    def _first(self, backend_id: str) -> tuple[float, BackendTraffic] | None:
        """The oldest sample that has the backend. Not zero before that: after a restart of
        the controller the workers report everything they ever counted at once.
        """
        for then_s, totals in self._samples:
            traffic = totals.backends.get(backend_id)
            if traffic is not None:
                return then_s, traffic
        return None


@dataclass(frozen=True, slots=True)
class _Growth:
    """What was counted over so many seconds: requests, those of them that failed, and a histogram
    of those that a backend answered.
    """

    elapsed_s: float
    requests: int
    failed: int
    buckets: Sequence[int]


def _rate(growths: Sequence[_Growth]) -> Rate:
    requests = sum(growth.requests for growth in growths)
    if not requests:
        return IDLE
    histograms = [growth.buckets for growth in growths if growth.buckets]
    counts = [sum(column) for column in zip(*histograms, strict=True)]
    return Rate(
        sum(growth.requests / growth.elapsed_s for growth in growths),
        quantile(0.99, counts),
        quantile(0.5, counts),
        sum(growth.failed for growth in growths) / requests,
    )


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
