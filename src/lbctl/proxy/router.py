"""Which backend gets a request: the policy, with what belongs around it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from lbctl.core.balancing import (
    ConsistentHash,
    LeastConnections,
    Policy,
    TwoChoices,
    WeightedRoundRobin,
)
from lbctl.core.balancing.cookies import CookieReader
from lbctl.core.balancing.keys import key_from
from lbctl.core.balancing.slow_start import SlowStart
from lbctl.core.balancing.sticky import StickyTable, cookie_value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl.config import Balancing
    from lbctl.core.http1 import Request
    from lbctl.core.origin import Origin
    from lbctl.proxy.pool import Pool


class Router:
    """Chooses among the pools in rotation.

    `start`: where this worker's turns begin. `live()`: its requests under way.
    """

    def __init__(self, config: Balancing, start: int, live: Callable[[], int]) -> None:
        self._live = live
        self._policy = self._make_policy(config, start)
        self._slow_start: SlowStart[Pool] = SlowStart(config.slow_start_s)
        self._key = key_from(config.hash_key) if config.balance == "consistent-hash" else None
        self._sticky_name = config.sticky_cookie
        self._cookie = CookieReader(config.sticky_cookie) if config.sticky_cookie else None
        self._table: StickyTable[Pool] = StickyTable()
        self._pools: Sequence[Pool] = ()
        self._anybody_does = self._key is None and self._cookie is None

    def _make_policy(self, config: Balancing, start: int) -> Policy[Pool]:
        if config.balance == "least-connections":
            return LeastConnections(start)
        if config.balance == "p2c":
            return TwoChoices(random.random)
        if config.balance == "consistent-hash":
            return ConsistentHash(self._live, bound=config.hash_load, start=start)
        return WeightedRoundRobin(start)

    @property
    def sticky(self) -> bool:
        """Whether answers may have to carry a cookie."""
        return self._cookie is not None

    def update(self, pools: Sequence[Pool], now: float) -> None:
        """These are in rotation now; `now` on the loop's clock."""
        self._pools = tuple(pools)
        self._slow_start.update(self._pools, now)
        self._weigh(now)
        self._policy.update(self._pools)
        self._table.update(self._pools)

    def tick(self, now: float) -> None:
        """Let newcomers grow; called a few times a second."""
        if self._slow_start:
            self._weigh(now)
            self._policy.reweigh()

    def _weigh(self, now: float) -> None:
        factors = self._slow_start.factors(now)
        for pool in self._pools:
            pool.weight = pool.backend.weight * factors.get(pool, 1.0)

    def pick(self, request: Request, origin: Origin, avoid: tuple[Pool, ...] = ()) -> Pool | None:
        """Whose turn it is; None if nobody is left."""
        if self._anybody_does:
            return self._policy.pick(avoid)
        if self._cookie is not None:
            wanted = self._table.find(self._cookie.find(request.fields))
            if wanted is not None and wanted not in avoid:
                return wanted
        key = b"" if self._key is None else self._key(origin.client(request), request.fields)
        return self._policy.pick(avoid, key)

    def cookie_line(self, request: Request, pool: Pool) -> bytes:
        """The field that brings the client back to `pool`, unless it says so already."""
        value = cookie_value(pool.name)
        if self._cookie is None or self._cookie.find(request.fields) == value:
            return b""
        name = self._sticky_name.encode("ascii")
        return b"Set-Cookie: %b=%b; Path=/; HttpOnly; SameSite=Lax\r\n" % (name, value)
