"""What the whole stack does right now, out of two looks at /metrics. No IO."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from lbctl.admin.rates import UNSERVED, quantile
from lbctl.model import DURATION_BUCKETS_S

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW_S: Final = 5.0
HISTORY: Final = 120  # looks that are remembered for the curve

_SAMPLE = re.compile(r'(lbctl_\w+)\{(?:backend="[^"\\]*",)?(code|le|reason)="([^"]*)"\} (\S+)')
_BOUNDS: Final = [*map(str, DURATION_BUCKETS_S), "+Inf"]
_BARS: Final = " ▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = " .:-=+*#@"


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted since the stack began: answered requests, those of them that failed (5xx),
    and how long they took (`buckets`, not cumulative, one more than DURATION_BUCKETS_S).
    """

    requests: int
    failed: int
    buckets: tuple[int, ...]


def read_counts(text: str) -> Counts:
    """From Prometheus' text format; what is not there counts as none."""
    requests = failed = 0
    cumulative = dict.fromkeys(_BOUNDS, 0)
    for name, label, value, number in _SAMPLE.findall(text):
        count = int(float(number))
        if name == "lbctl_requests_total" and label == "code":
            requests += count
            failed += count if value == "5xx" else 0
        elif name == "lbctl_refused_total" and value in UNSERVED:
            requests += count
            failed += count
        elif name == "lbctl_request_duration_seconds_bucket" and value in cumulative:
            cumulative[value] += count
    upto = list(cumulative.values())
    buckets = (upto[0], *(high - low for low, high in pairwise(upto)))
    return Counts(requests, failed, buckets)


@dataclass(frozen=True, slots=True)
class Pulse:
    """The last seconds: None where nothing was answered in them."""

    requests_per_second: float = 0.0
    failed_ratio: float | None = None
    p50_s: float | None = None
    p99_s: float | None = None


class Meter:
    """Looks of the last WINDOW_S, and the curve of those before. `now_s` is monotonic."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Counts]] = deque()
        self.history: deque[float] = deque(maxlen=HISTORY)

    def observe(self, now_s: float, counts: Counts) -> None:
        """Another look."""
        if self._looks:
            then_s, before = self._looks[-1]
            if counts.requests < before.requests:
                # Another controller, which has not heard of all yet: its word counts from now on.
                self._looks.clear()
            elif now_s > then_s:
                self.history.append((counts.requests - before.requests) / (now_s - then_s))
        self._looks.append((now_s, counts))
        while len(self._looks) > 2 and self._looks[1][0] <= now_s - WINDOW_S:
            self._looks.popleft()

    def pulse(self) -> Pulse:
        """From the first look that is remembered to the last."""
        if len(self._looks) < 2:
            return Pulse()
        (then_s, before), (now_s, after) = self._looks[0], self._looks[-1]
        requests = after.requests - before.requests
        if requests <= 0 or now_s <= then_s:
            return Pulse()
        took = [new - old for new, old in zip(after.buckets, before.buckets, strict=True)]
        return Pulse(
            requests_per_second=requests / (now_s - then_s),
            failed_ratio=max(0, after.failed - before.failed) / requests,
            p50_s=quantile(0.5, took),
            p99_s=quantile(0.99, took),
        )


def sparkline(values: Sequence[float], width: int, *, plain: bool = False) -> str:
    """The last `width` values as bars of eight heights, the highest of them all the way up;
    `plain` is for terminals without Unicode.
    """
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0.0)
    bars = _PLAIN_BARS if plain else _BARS
    if top <= 0:
        return bars[1] * len(shown)
    steps = len(bars) - 1
    return "".join(bars[max(1, min(steps, round(value / top * steps)))] for value in shown)
