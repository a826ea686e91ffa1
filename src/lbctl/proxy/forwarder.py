"""The one owner of a worker's routes, pools, counters and clock.

Timeouts cost nothing a request: a connection copies its deadline as a plain number, and one
sweep every SWEEP_INTERVAL_S looks at all of them, and moves on what is copied
(proxy/deadlines.py).
"""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections import Counter
from email.utils import formatdate
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING

from lbctl.core.budget import RetryBudget
from lbctl.core.forwarding import hops_left
from lbctl.core.memo import Memo
from lbctl.core.origin import Hop, Origin, networks
from lbctl.errors import ProtocolError
from lbctl.model import Failure
from lbctl.proxy.deadlines import Deadlines
from lbctl.proxy.downstream import Downstream
from lbctl.proxy.gate import gate_of, limited
from lbctl.proxy.pool import Pool
from lbctl.proxy.router import Router
from lbctl.proxy.secure import RedirectedDownstream
from lbctl.proxy.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.config import Config
    from lbctl.core.http1 import Request, Response
    from lbctl.model import Snapshot
    from lbctl.proxy.accesslog import AccessLog
    from lbctl.proxy.gate import Kind, Ledger
    from lbctl.proxy.tls import TlsConnection

SWEEP_INTERVAL_S = 0.25
_ORIGINS = 4096
_STALL_S = 2 * SWEEP_INTERVAL_S
_OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_DRAIN_REST_S = 1.0
"""A draining worker lets a client at rest this long send one more request: its answer says
`Connection: close`, which loses nothing, while closing now might cross a request under way."""


class Forwarder:
    """Everything the connections of one worker share."""

    def __init__(
        self,
        config: Config,
        *,
        name: str = "lbctl",
        first_turn: int = 0,
        access_log: AccessLog | None = None,
        ledger: Ledger | None = None,
        on_suspect: Callable[[str], None] | None = None,
        on_failing: Callable[[str, Failure], None] | None = None,
        on_settled: Callable[[], None] | None = None,
    ) -> None:
        """`name` is that of the lb in Via fields. `ledger` is what all workers know of their
        clients together; without it this one counts alone. `on_suspect(backend_id)` hears of
        failures on live traffic, `on_failing(backend_id, cause)` of a whole row of them;
        `on_settled()` that an unrouted backend has nothing in flight any more.
        """
        self.loop = asyncio.get_running_loop()
        self.timeouts = config.timeouts
        self.limits = config.limits
        self.access_log = access_log
        self.retries = config.retrying
        self._swept = self.loop.time()
        self.deadlines = Deadlines(config.timeouts, self._swept, config.tls.tls_handshake_timeout_s)
        self.date = formatdate(usegmt=True).encode("ascii")
        self.draining = False
        self.revision = 0
        self.pools: dict[str, Pool] = {}
        self._pool_numbers = count(1)
        self.refused: Counter[str] = Counter()
        self.downstreams: set[Downstream | TlsConnection] = set()
        self.gate = gate_of(config.limits, ledger)
        self._kind = self.limited(RedirectedDownstream if config.tls.redirects else Downstream)
        self.secure_port = config.tls.tls_redirect_port or config.tls.tls_port
        hsts_s = config.tls.hsts_s
        self.hsts_line = b"Strict-Transport-Security: max-age=%d\r\n" % hsts_s if hsts_s else b""
        self._candidates = 0
        self.live = 0  # requests that are with a backend, of all pools
        self.router = Router(config.balancing, first_turn, self._live_on_candidates)
        self.pick = self.router.pick
        self.budget = RetryBudget(
            config.retrying.retry_budget_percent, config.retrying.retry_budget_min
        )
        self._requests: Memo[Request] = Memo()
        self.known_request = self._requests.get
        self.known_hosts: Memo[bytes] = Memo()
        self.known_responses: Memo[Response] = Memo()
        self.known_response = self.known_responses.get
        self._origins: dict[str, Origin] = {}
        self._hop = Hop(
            name,
            secrets.token_hex(8) + "-",
            networks(config.trust.trusted_proxies),
        )
        self._upgrades = frozenset(
            one.strip().lower().encode() for one in config.trust.upgrades.split(",") if one.strip()
        )
        self.next_number = count(1).__next__
        self._on_suspect = on_suspect
        self._on_failing = on_failing
        self._eject_failures = config.health.eject_failures
        self._on_settled = on_settled
        self._connects: dict[asyncio.Task[None], tuple[Pool, Downstream]] = {}
        self._sweeper = self.loop.call_later(SWEEP_INTERVAL_S, self._sweep)

    # Routes.

    def apply(self, snapshot: Snapshot) -> None:
        """Route on `snapshot` from the next request on. Requests in flight go on."""
        routed: list[Pool] = []
        for backend in snapshot.routes:
            pool = self.pools.get(backend.id)
            if pool is None:
                limit = self.limits.idle_upstreams_per_backend
                number = next(self._pool_numbers)
                pool = self.pools[backend.id] = Pool(backend, limit, number)
            elif pool.backend != backend or not pool.routed:
                pool.close_idle(before=float("inf"))
                pool.backend = backend
                pool.stay += 1
            if not pool.routed:
                pool.routed = True
                pool.failures = 0
            routed.append(pool)
        kept = {pool.backend.id for pool in routed}
        for pool in list(self.pools.values()):
            if pool.backend.id not in kept:
                self._unroute(pool)
        self._candidates = len(routed)
        self.router.update(routed, self.loop.time())
        self.revision = snapshot.revision
        if routed:
            self._go_elsewhere()

    def _go_elsewhere(self) -> None:
        """Requests that wait for a connection to a backend which has left. It may be away with its
        address, and then nobody says no: only the timeout would.
        """
        for task, (pool, downstream) in list(self._connects.items()):
            if not pool.routed:
                task.cancel()
                downstream.connect_failed(pool, "unrouted")

    def _unroute(self, pool: Pool) -> None:
        pool.routed = False
        pool.close_idle(before=float("inf"))

    def admit(self, request: Request, origin: Origin) -> None:
        """What is decided on a head that was not met before. Raises ProtocolError."""
        if not request.plain:
            if self._hop.is_loop(request):
                raise ProtocolError(508, "loop")
            if hops_left(request) == 0:
                # We are whom it is for; OPTIONS has a simple answer, TRACE has none from us.
                raise ProtocolError(200 if request.method == b"OPTIONS" else 501, "max_forwards")
            request.upgrade &= self._upgrades
        if self.router.sticky:
            request.simple = False  # its answer may have to carry a cookie
        if not request.upgrade and not origin.trusted:
            self._requests.keep(request.raw, request)

    def _live_on_candidates(self) -> int:
        if len(self.pools) == self._candidates:  # nobody is leaving, as nearly always
            return self.live
        return sum(pool.in_flight for pool in self.pools.values() if pool.routed)

    def may_repeat(self) -> bool:
        """Take one request's share of the retry budget, if there is room; give it back with
        budget.end().
        """
        return self.budget.begin(self.live)

    def suspect(
        self, pool: Pool, cause: Failure | None = None, upstream: Upstream | None = None
    ) -> None:
        """Live traffic failed on a backend, on this connection if there was one; the control plane
        should look at it now. With a `cause` it counts: see `failed`.

        What was begun before the backend left, and ends when it is back, counts for nothing.
        """
        if upstream is not None and not pool.is_of_now(upstream):
            return
        if self._on_suspect is not None:
            self._on_suspect(pool.backend.id)
        if cause is not None:
            self.failed(pool, cause)

    def failed(self, pool: Pool, cause: Failure) -> None:
        """One more in a row of failures. Each `eject_failures` of them are reported, once in a
        sweep at most: a backend that has to stay may fail thousands of times a second.
        """
        pool.failures += 1
        if not self._eject_failures or pool.failures % self._eject_failures:
            return
        if self._on_failing is not None and pool.told != self.deadlines.now:
            pool.told = self.deadlines.now
            self._on_failing(pool.backend.id, cause)

    def settled(self, pool: Pool) -> None:
        """Nothing is in flight on a pool any more."""
        if not pool.routed and self._on_settled is not None:
            self._on_settled()

    def connect(self, pool: Pool, downstream: Downstream) -> None:
        """Open a connection; the answer goes to downstream.connected or .connect_failed."""
        task = self.loop.create_task(self._connect(pool, downstream))
        self._connects[task] = pool, downstream
        task.add_done_callback(self._connects.pop)

    async def _connect(self, pool: Pool, downstream: Downstream) -> None:
        upstream = Upstream(self, pool)
        backend = upstream.backend
        started = perf_counter()
        try:
            async with asyncio.timeout(self.timeouts.connect_timeout_s):
                await self.loop.create_connection(lambda: upstream, backend.ip, backend.port)
            if upstream.transport.is_closing():
                raise ConnectionResetError  # it was closed before this task had its turn
        except OSError as error:
            # What this machine lacks is no fault of the backend.
            self.suspect(pool, None if error.errno in _OUR_OWN else Failure.CONNECT, upstream)
            timed_out = isinstance(error, TimeoutError)
            downstream.connect_failed(pool, "connect_timeout" if timed_out else "connect_failed")
        else:
            # Not when it is made: of one that is cancelled right then, uvloop says no end.
            pool.open.add(upstream)
            downstream.connected(upstream, perf_counter() - started)

    # Clients.

    def limited(self, kind: type[Kind]) -> type[Kind]:
        """What a connection of this kind is made as."""
        return kind if self.gate is None else limited(kind)

    def client(self) -> Downstream:
        """The protocol of a client's connection."""
        return self._kind(self)

    def origin(self, ip: str, tls: str = "") -> Origin:
        """A client's address as its requests' origin; most clients come more than once. `tls` is
        the version that it speaks, if it does.
        """
        key = ip + tls
        origin = self._origins.get(key)
        if origin is None:
            if len(self._origins) >= _ORIGINS:
                self._origins.clear()
            scheme = "https" if tls else "http"
            origin = self._origins[key] = Origin(self._hop, ip, scheme, tls)
        return origin

    def joined(self, downstream: Downstream | TlsConnection) -> None:
        self.downstreams.add(downstream)

    def left(self, downstream: Downstream | TlsConnection) -> None:
        self.downstreams.discard(downstream)

    # The clock.

    def _sweep(self) -> None:
        swept, self._swept = self._swept, self.loop.time()
        # Where this process stood still, what came meanwhile has not been read yet, and is not
        # late: the clock of the timeouts stands still with us.
        passed_s = self._swept - swept
        now = self.deadlines.now + (passed_s if passed_s < _STALL_S else SWEEP_INTERVAL_S)
        self.deadlines.advance(now)
        self.router.tick(self._swept)
        self._sweeper = self.loop.call_later(SWEEP_INTERVAL_S, self._sweep)
        self.date = formatdate(usegmt=True).encode("ascii")
        for pool in self.pools.values():
            pool.sweep(self.deadlines)
        for downstream in [one for one in self.downstreams if one.deadline <= now]:
            downstream.expired()
        if self.access_log is not None:
            self.access_log.flush()

    def forget(self, backend_id: str) -> None:
        """Drop the pool of a backend that is out of rotation and at rest, once its counters
        have been handed on.
        """
        pool = self.pools.get(backend_id)
        if pool is not None and not pool.routed and not pool.in_flight:
            del self.pools[backend_id]

    async def drain(self, deadline_s: float) -> None:
        """Let clients finish; returns when the last one has left, or at the deadline."""
        self.draining = True
        # Every answer now says that its connection closes, and that is the long way.
        self._requests.close()
        self.known_responses.close()
        started = self.loop.time()
        while self.downstreams and self.loop.time() - started < deadline_s:
            if self.loop.time() - started >= _DRAIN_REST_S:
                for downstream in list(self.downstreams):
                    downstream.close_if_idle()
            await asyncio.sleep(SWEEP_INTERVAL_S / 5)

    def close(self) -> None:
        """End what is left."""
        self._sweeper.cancel()
        for task in self._connects:
            task.cancel()
        for downstream in list(self.downstreams):
            downstream.abort()
        for pool in self.pools.values():
            pool.close_idle(before=float("inf"))
        if self.access_log is not None:
            self.access_log.flush()
