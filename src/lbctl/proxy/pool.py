"""One backend as a worker sees it: its idle connections and what was counted on it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from typing import TYPE_CHECKING

from lbctl.model import CODE_CLASSES, DURATION_BUCKETS_S

if TYPE_CHECKING:
    from lbctl.model import Backend
    from lbctl.proxy.deadlines import Deadlines
    from lbctl.proxy.upstream import Upstream


class Pool:
    """Connections to one backend, the last one used first, and plain integer counters.

    A pool outlives its place in rotation: it stays until nothing is in flight on it. It
    outlives the backend's address too: what was counted is counted by id.
    """

    __slots__ = (
        "_heard_before",
        "backend",
        "buckets",
        "changed",
        "codes",
        "duration_sum_s",
        "failures",
        "heard",
        "idle",
        "idle_limit",
        "in_flight",
        "name",
        "number",
        "open",
        "retries",
        "routed",
        "silent_at",
        "stay",
        "told",
        "weight",
    )

    def __init__(self, backend: Backend, idle_limit: int, number: int = 1) -> None:
        """`number`: this worker's; another one means that counting began anew."""
        self.backend = backend
        self.name = backend.id
        self.number = number
        self.weight = float(backend.weight)  # right now; its owner is the router
        self.idle: deque[Upstream] = deque()
        self.idle_limit = idle_limit
        self.open: set[Upstream] = set()  # its connections, whatever they do
        self.routed = True
        self.stay = 1  # in rotation, at one address: counted
        self.in_flight = 0
        self.heard = 0  # how often it has sent something, on any of its connections
        self._heard_before = 0  # at the last sweep
        self.silent_at = 0.0  # when what it said last will be too long ago
        self.failures = 0  # requests in a row
        self.told = 0.0  # when they were last reported, on the clock of the deadlines
        self.codes = [0] * len(CODE_CLASSES)
        self.buckets = [0] * (len(DURATION_BUCKETS_S) + 1)
        self.duration_sum_s = 0.0
        self.retries: Counter[str] = Counter()
        self.changed = True

    def take(self) -> Upstream | None:
        """An idle connection, if one is still open."""
        idle = self.idle
        while idle:
            upstream = idle.pop()
            if not upstream.transport.is_closing():
                return upstream
        return None

    def is_of_now(self, upstream: Upstream) -> bool:
        """Whether a connection was begun since the backend came into rotation, to the address that
        it has: one of before says nothing of what is there now.
        """
        return upstream.stay == self.stay

    def release(self, upstream: Upstream, deadline: float) -> None:
        """Keep a connection that may carry another request until `deadline`, or close it."""
        if self.routed and self.is_of_now(upstream) and len(self.idle) < self.idle_limit:
            upstream.deadline = deadline
            self.idle.append(upstream)
        else:
            upstream.transport.abort()

    def discard(self, upstream: Upstream) -> None:
        """Forget an idle connection that its backend closed."""
        if upstream in self.idle:
            self.idle.remove(upstream)

    def sweep(self, deadlines: Deadlines) -> None:
        """A few times a second: note when it last spoke, and close what rested for too long."""
        if self.heard != self._heard_before:
            self._heard_before = self.heard
            self.silent_at = deadlines.silence
        self.close_idle(before=deadlines.now)

    def close_idle(self, before: float) -> None:
        """Close the idle connections whose deadline is earlier than `before`, oldest first."""
        idle = self.idle
        while idle and idle[0].deadline < before:
            idle.popleft().transport.abort()  # whatever it has not read was answered

    def record(self, status: int, duration_s: float) -> None:
        """Count one answered request."""
        self.codes[status // 100 - 1 if status < 600 else 4] += 1
        self.buckets[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1
        self.duration_sum_s += duration_s
        self.changed = True
