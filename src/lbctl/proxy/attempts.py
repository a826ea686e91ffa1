"""A request whose first attempt failed: where it has been, and whether it may go elsewhere.

It is sent a second time only where that is provably safe (RFC 9110, section 9.2.2): if nothing
of it was sent, or if it is idempotent, has no body, and no byte of an answer came. The latter
stays within a budget, so that an overload does not feed itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.core.http1 import Request
    from lbctl.core.origin import Origin
    from lbctl.proxy.forwarder import Forwarder
    from lbctl.proxy.pool import Pool


class Attempts:
    """`close()` it with the request: it holds a part of the budget.

    `count`: second tries in all; `repeats`: those for which it had been sent before.
    """

    __slots__ = (
        "_avoid",
        "_forwarder",
        "_origin",
        "_refusals",
        "_request",
        "_spare",
        "count",
        "repeats",
    )

    def __init__(self, forwarder: Forwarder, request: Request, origin: Origin) -> None:
        self._forwarder = forwarder
        self._request = request
        self._origin = origin
        self._avoid: tuple[Pool, ...] = ()
        self._spare: Pool | None = None
        self.repeats = 0
        self._refusals = 0
        self.count = 0

    @property
    def spent(self) -> bool:
        """Whether it may not be sent again, wherever there may be room for it."""
        return self.repeats >= self._forwarder.retries.retries

    def after_refusal(self, pool: Pool) -> Pool | None:
        """Nothing was sent, because no connection could be made."""
        self._avoid = (*self._avoid, pool)
        self._refusals += 1
        if self._refusals > self._forwarder.retries.connect_retries:
            return None
        return self._take(self._another())

    def after_loss(self, pool: Pool, *, stale: bool) -> Pool | None:
        """The connection was lost. `stale`: it had rested, and its backend may just have closed
        it: so that one is asked again, on a new connection, if there is no other.
        """
        if stale:
            self._spare = pool
        return self._repeat(pool)

    def after_silence(self, pool: Pool) -> Pool | None:
        """Its backend says nothing at all."""
        return self._repeat(pool)

    def _repeat(self, pool: Pool) -> Pool | None:
        forwarder = self._forwarder
        if pool not in self._avoid:
            self._avoid = (*self._avoid, pool)
        if self.spent:
            return None
        another = self._another()
        if another is None or not forwarder.may_repeat():
            return None
        self.repeats += 1
        return self._take(another)

    def _another(self) -> Pool | None:
        another = self._forwarder.pick(self._request, self._origin, self._avoid)
        if another is None and self._spare is not None and self._spare.routed:
            return self._spare
        return another

    def _take(self, pool: Pool | None) -> Pool | None:
        if pool is not None:
            self.count += 1
        if pool is self._spare:
            self._spare = None
        return pool

    def close(self) -> None:
        for _ in range(self.repeats):
            self._forwarder.budget.end()
