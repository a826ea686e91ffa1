"""How a backend leaves: chosen, unrouted, off every list, idle, stopped, removed. In this order,
each step when the one before it is done, or when the one deadline for all of them has passed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from lbctl.core.text import printable
from lbctl.model import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable
    from typing import Any

    from lbctl.control.reconciler import Reconciler
    from lbctl.ports import Routes, Runtime

log = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
"""Between the polite signal and the other one; its requests are through by then."""


class Leaving:
    """Takes backends out, and away. `let_in` is told of those that could not be stopped: they
    run on, so they may serve.
    """

    def __init__(
        self,
        runtime: Runtime,
        reconciler: Reconciler,
        routes: Routes,
        drain_timeout_s: float,
        let_in: Callable[[Iterable[str]], None],
    ) -> None:
        self._runtime = runtime
        self._reconciler = reconciler
        self._routes = routes
        self._drain_timeout_s = drain_timeout_s
        self._let_in = let_in

    async def retire(self, backend_ids: Collection[str], reason: str) -> None:
        """Take them out; return when no list names them and nothing is in flight on them, or
        `drain_timeout_s` has passed. They get no request from the first moment on.
        """
        end_s = await self._unlist(backend_ids, reason, Cause.BY_HAND)
        await asyncio.gather(*(self._idle(backend_id, end_s) for backend_id in backend_ids))

    async def leave(self, backend_ids: Collection[str], reason: str) -> None:
        """Take them out, then stop and remove each as soon as it is idle.

        Raises the runtime's first error, when all the others have left.
        """
        end_s = await self._unlist(backend_ids, reason, Cause.LEAVING)

        async def depart(backend_id: str) -> None:
            left = await self._idle(backend_id, end_s)
            if left:
                log.warning("%s stops with %d requests in flight", backend_id[:12], left)
            await self._runtime.stop(backend_id, STOP_GRACE_S)

        await self._all({backend_id: depart(backend_id) for backend_id in backend_ids})

    async def clear(self, backend_ids: Collection[str]) -> None:
        """Remove what is dead. Raises the runtime's first error."""
        await self._all({one: self._runtime.stop(one, 0) for one in backend_ids})

    async def _unlist(self, backend_ids: Collection[str], reason: str, cause: Cause) -> float:
        """Returns when the deadline is, on the loop's clock."""
        end_s = asyncio.get_running_loop().time() + self._drain_timeout_s
        self._reconciler.drain(backend_ids, reason, cause)
        try:
            async with asyncio.timeout_at(end_s):
                await self._reconciler.wait_until(lambda: not self._reconciler.lagging())
        except TimeoutError:
            names = ", ".join(printable(name) for name, _ in self._reconciler.lagging())
            log.warning("backends leave that are still on the list of %s", names)
        return end_s

    async def _idle(self, backend_id: str, end_s: float) -> int:
        """Requests still in flight at the deadline."""
        left_s = max(0.0, end_s - asyncio.get_running_loop().time())
        return await self._routes.unrouted(backend_id, left_s)

    async def _all(self, jobs: dict[str, Coroutine[Any, Any, None]]) -> None:
        results = await asyncio.gather(*jobs.values(), return_exceptions=True)
        failed = {one: r for one, r in zip(jobs, results, strict=True) if r is not None}
        self._let_in(failed)
        for error in failed.values():
            raise error
