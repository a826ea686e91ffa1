"""Learns from the runtime which instances there are.

Events are hints; the list is the truth. Discovery subscribes, *then* lists, lists again
whenever a hint says something may have changed, and every `resync_interval_s` in any case: a
lost event costs time, never truth. However many hints come, one list runs and at most one
more is due after it.

Two things a list cannot tell are kept beside it. An instance that was sent a terminating
signal, or has just died, is listed as running for a moment longer: it is STOPPING or EXITED from
the hint on, until a list taken after the hint agrees, it starts again, or `stopping_period_s`
passed and it still runs. And since an engine may send an event before its own list shows what
happened, each burst of hints is followed by more looks, `SETTLE_S` after the last.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.control.tasks import woken
from lbctl.core.backoff import Backoff
from lbctl.errors import LbctlError
from lbctl.model import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl.config import Control
    from lbctl.model import ControlStats, Instance
    from lbctl.ports import Change, Runtime

log = logging.getLogger(__name__)

SETTLE_S = (0.05, 0.5)
"""After the last hint of a burst. Engine 20.10 tells of a pause some ms before its list does,
and takes up to half a second to tidy up a container.
"""

LIST_TIMEOUT_S = 30.0
"""An engine that hangs is an engine that failed; it is asked again."""

_SUBSCRIBED = "subscribed"
_DIED = "die"
_STARTED = "start"


class Discovery:
    """Delivers complete lists, the last truth first whenever a hint corrects it."""

    def __init__(
        self,
        runtime: Runtime,
        control: Control,
        stats: ControlStats,
        deliver: Callable[[Sequence[Instance]], None],
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._runtime = runtime
        self._control = control
        self._stats = stats
        self._deliver = deliver
        self._chance = chance
        self._wanted = asyncio.Event()
        self._subscribed = asyncio.Event()
        self._settle_at: list[float] = []
        self._truth: list[Instance] | None = None
        self._no_events = ""  # why, in one line
        self._no_list = ""
        self._leaving: dict[str, tuple[float, Phase]] = {}  # id: when it was told, and what it is

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._keep_looking())

    def look(self) -> None:
        """Take a list soon, event or not."""
        self._wanted.set()

    async def _follow(self) -> None:
        """Keep an event stream open."""
        control = self._control
        clock = asyncio.get_running_loop().time
        backoff = Backoff(control.reconnect_min_s, control.reconnect_max_s)
        while True:
            opened_at = clock()
            try:
                async for change in self._runtime.watch():
                    self._take(change)
                reason = "it ended"
            except LbctlError as error:
                reason = str(error)
            if clock() - opened_at > control.reconnect_max_s:
                backoff.reset()
            self._no_events = reason.partition("\n")[0]
            self._say()
            wait_s = backoff.next_s(self._chance())
            log.warning("no events from the runtime, trying again in %.1f s: %s", wait_s, reason)
            await asyncio.sleep(wait_s)

    def _take(self, change: Change) -> None:
        now = asyncio.get_running_loop().time()
        if change.action == _SUBSCRIBED:
            log.info("following the events of the runtime")
            self._no_events = ""
            self._say()
            self._subscribed.set()
        else:
            self._stats.events[change.action] += 1
            self._settle_at = [now + after_s for after_s in SETTLE_S]
        if change.leaving or change.action == _DIED:
            phase = Phase.EXITED if change.action == _DIED else Phase.STOPPING
            self._leaving[change.id] = now, phase
            self._tell()
        elif change.action == _STARTED:
            self._leaving.pop(change.id, None)
        self._wanted.set()

    async def _keep_looking(self) -> None:
        clock = asyncio.get_running_loop().time
        await self._subscribed.wait()
        while True:
            began_at = clock()
            self._wanted.clear()
            await self._look()
            # However fast events come, the engine is left in peace for as long as its list took,
            # but no longer than the last settling takes.
            await asyncio.sleep(min(clock() - began_at, SETTLE_S[-1]))
            await woken(self._wanted, max(0.0, self._next_look_at() - clock()))

    def _next_look_at(self) -> float:
        control = self._control
        moments = [asyncio.get_running_loop().time() + control.resync_interval_s]
        moments += [told_at + control.stopping_period_s for told_at, _ in self._leaving.values()]
        return min([*moments, *self._settle_at])

    async def _look(self) -> None:
        """List until it works; the last truth stands until then."""
        control = self._control
        clock = asyncio.get_running_loop().time
        backoff = Backoff(control.reconnect_min_s, control.reconnect_max_s)
        failed = False
        while True:
            began_at = clock()
            self._settle_at = [moment for moment in self._settle_at if moment > began_at]
            try:
                async with asyncio.timeout(LIST_TIMEOUT_S):
                    self._truth = await self._runtime.list()
            except (LbctlError, TimeoutError) as error:
                if not failed:
                    log.warning("the runtime cannot be listed: %s", error or "it hangs")
                failed = True
                self._no_list = str(error).partition("\n")[0] or "it hangs"
                self._say()
                await asyncio.sleep(backoff.next_s(self._chance()))
                continue
            if failed:
                log.info("the runtime is listed again")
            self._forget_hints(began_at)
            self._stats.discovery_synced_monotonic_s = clock()
            self._no_list = ""
            self._say()
            self._tell()
            return

    def _say(self) -> None:
        self._stats.discovery_problem = self._no_list or self._no_events

    def _forget_hints(self, began_at: float) -> None:
        """Drop what the list, begun then, already says itself, and what is too old."""
        running = {
            instance.id for instance in self._truth or () if instance.phase is not Phase.EXITED
        }
        for instance_id, (told_at, _) in list(self._leaving.items()):
            if told_at + self._control.stopping_period_s <= began_at:
                log.info("%s was told to stop, and runs on", instance_id[:12])
                del self._leaving[instance_id]
            elif told_at <= began_at and instance_id not in running:
                del self._leaving[instance_id]

    def _tell(self) -> None:
        if self._truth is None:
            return
        self._deliver(
            [
                replace(instance, phase=self._leaving[instance.id][1])
                if instance.id in self._leaving and instance.phase is Phase.RUNNING
                else instance
                for instance in self._truth
            ]
        )
