"""Brings the number of backends to a wish.

A wish is carried out once: look at what the runtime has, start or stop the difference, wait
until every list says so. Wishes are carried out one after the other; a newer one ends the
waiting of those before it, and those it overtook before they began are never begun.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from lbctl.config import MAX_REPLICAS
from lbctl.core.lifecycle import Plan, plan
from lbctl.core.text import printable
from lbctl.errors import DeadlineError, OperationError, UsageError
from lbctl.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl.config import Control
    from lbctl.control.reconciler import Reconciler
    from lbctl.control.store import Store
    from lbctl.ports import Routes, Runtime

log = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
"""Between the polite signal and the other one; its requests are through by then."""

_NAMED_AT_MOST = 5


class Scaler:
    """Implements ports.Scaler. `look` asks discovery to list soon."""

    def __init__(
        self,
        runtime: Runtime,
        reconciler: Reconciler,
        routes: Routes,
        control: Control,
        store: Store,
        look: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._reconciler = reconciler
        self._routes = routes
        self._control = control
        self._store = store
        self._look = look
        self._turn = asyncio.Lock()
        self._wishes = 0
        self._newer = asyncio.Event()  # set when the wish being carried out is not the last
        self._running: set[asyncio.Task[None]] = set()
        self._last: asyncio.Task[None] | None = None
        self._replicas, self._own = _restore(store.load())

    @property
    def replicas(self) -> int | None:
        """The last wish."""
        return self._replicas

    async def scale(self, replicas: int) -> None:
        """Return when exactly so many are up, and hold the list that says so.

        A caller that goes away does not end what it asked for. Raises UsageError,
        DeadlineError naming who lags and why, EngineError as the runtime does, and
        OperationError if a newer wish came in between.
        """
        if not 1 <= replicas <= MAX_REPLICAS:
            raise UsageError(f"replicas: {replicas} is out of range (1 to {MAX_REPLICAS})")
        task = self._last
        if task is None or task.done() or replicas != self._replicas:
            task = self._wish(replicas)  # else the same is being carried out: wait with them
        try:
            async with asyncio.timeout(self._control.scale_timeout_s):
                await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineError(self._lag(replicas)) from None

    def _wish(self, replicas: int) -> asyncio.Task[None]:
        self._wishes += 1
        self._newer.set()
        self._replicas = replicas
        self._save()
        task = asyncio.get_running_loop().create_task(self._carry_out(replicas, self._wishes))
        self._last = task
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Give up what is under way; backends stay as they are."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _carry_out(self, replicas: int, wish: int) -> None:
        async with self._turn:
            await self._reconciler.wait_until(lambda: self._reconciler.observed)
            if wish != self._wishes:
                raise self._overtaken()
            self._newer.clear()
            instances = await self._runtime.list()
            self._own &= {instance.id for instance in instances}
            statuses = {status.id: status for status in self._reconciler.backends()}
            todo = plan(replicas, instances, statuses, self._own)
            log.info(
                "scaling to %d: %d to start, %d to stop, %d dead ones to clear away",
                replicas, todo.start, len(todo.stop), len(todo.clear),
            )  # fmt: skip
            await self._act(todo)
            gone = {*todo.stop, *todo.clear}
            await self._until_newer(lambda: self._reached(replicas, gone))
        if wish != self._wishes:
            raise self._overtaken()

    async def _act(self, todo: Plan) -> None:
        if todo.stop or todo.clear:
            await self._stop(todo)
        if todo.start:
            started = await self._runtime.start(todo.start)
            self._own.update(started)
            self._save()
        self._look()

    async def _stop(self, todo: Plan) -> None:
        """All leave side by side: out of routes and lists, then idle, then gone."""
        self._reconciler.drain(todo.stop, "it leaves: scaled down")
        try:
            async with asyncio.timeout(self._control.drain_timeout_s):
                await self._reconciler.wait_until(lambda: not self._reconciler.lagging())
        except TimeoutError:
            names = ", ".join(printable(name) for name, _ in self._reconciler.lagging())
            log.warning("stopping backends that are still on the list of %s", names)
        leaving = [self._leave(backend_id) for backend_id in todo.stop]
        clearing = [self._runtime.stop(backend_id, 0) for backend_id in todo.clear]
        results = await asyncio.gather(*leaving, *clearing, return_exceptions=True)
        failed = [error for error in results if error is not None]
        for backend_id, result in zip((*todo.stop, *todo.clear), results, strict=True):
            if result is None:
                self._own.discard(backend_id)
            else:
                self._reconciler.undrain([backend_id])  # it runs on: let it serve
        self._save()
        if failed:
            raise failed[0]

    async def _leave(self, backend_id: str) -> None:
        left = await self._routes.unrouted(backend_id, self._control.drain_timeout_s)
        if left:
            log.warning("%s stops with %d requests in flight", backend_id[:12], left)
        await self._runtime.stop(backend_id, STOP_GRACE_S)

    async def _until_newer(self, check: Callable[[], bool]) -> None:
        """Wait until `check` holds, or a newer wish makes it pointless."""
        loop = asyncio.get_running_loop()
        condition = loop.create_task(self._reconciler.wait_until(check))
        newer = loop.create_task(self._newer.wait())
        try:
            await asyncio.wait({condition, newer}, return_when=asyncio.FIRST_COMPLETED)
            if condition.done():
                condition.result()
        finally:
            condition.cancel()
            newer.cancel()
            await asyncio.gather(condition, newer, return_exceptions=True)

    def _reached(self, replicas: int, gone: set[str]) -> bool:
        statuses = self._reconciler.backends()
        up = sum(status.state is State.UP for status in statuses)
        listed = len(self._reconciler.membership().members)
        departed = not any(status.id in gone for status in statuses)
        return up == listed == replicas and departed and not self._reconciler.lagging()

    def _lag(self, replicas: int) -> str:
        """What the deadline's error says."""
        if not self._reconciler.observed:
            return f"after {self._control.scale_timeout_s:g} s the runtime has not shown a list yet"
        statuses = self._reconciler.backends()
        up = [status for status in statuses if status.state is State.UP]
        others = [status for status in statuses if status.state is not State.UP]
        facts = [f"{s.name} is {s.state.value}: {s.reason}" for s in others]
        facts += [f"{name} {why}" for name, why in self._reconciler.lagging()]
        return (
            f"after {self._control.scale_timeout_s:g} s, {len(up)} of {replicas} backends "
            f"are in rotation; {_some(facts) or 'the runtime shows no others'}"
        )

    def _overtaken(self) -> OperationError:
        return OperationError(f"a newer wish came in between: scale to {self._replicas}")

    def _save(self) -> None:
        self._store.save({"replicas": self._replicas, "own": sorted(self._own)})

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("scaling ended: %s", error)


def _some(facts: Sequence[str]) -> str:
    shown = [printable(fact) for fact in facts[:_NAMED_AT_MOST]]
    if len(facts) > len(shown):
        shown.append(f"and {len(facts) - len(shown)} more")
    return "; ".join(shown)


def _restore(document: Any) -> tuple[int | None, set[str]]:
    """The wish of the last controller, and the ids it had started."""
    if not isinstance(document, dict):
        return None, set()
    replicas, own = document.get("replicas"), document.get("own")
    valid = isinstance(replicas, int) and 1 <= replicas <= MAX_REPLICAS
    return (
        replicas if valid else None,
        {item for item in own if isinstance(item, str)} if isinstance(own, list) else set(),
    )
