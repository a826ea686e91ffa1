"""Keeps the present list on every backend that can be written to.

One task a backend drives it to the newest list: never two writes to one backend at a time,
and a list that is no longer the newest is not started any more. A backend that holds the list
is asked now and then whether it still does, and written to again if not: a restarted one has
a blank file, and a write that timed out may have been carried out late, over a newer one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lbctl.control.tasks import woken
from lbctl.core.backoff import Backoff
from lbctl.errors import OperationError
from lbctl.model import DURATION_BUCKETS_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lbctl.config import Control
    from lbctl.control.tasks import Tasks
    from lbctl.core.membership import Course
    from lbctl.model import ControlStats, Membership
    from lbctl.ports import ListWriter

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Copy:
    """One backend's copy of the list, as far as the publisher knows."""

    course: Course
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    held: int | None = None  # generation
    doubtful: bool = False  # a write failed since the last check: it may still be carried out
    last_error: str = ""


class Publisher:
    """Publishes what it was last told; tells of each success and failure by callback.

    `taken(id, generation)` after both files are written, `refused(id, reason)` after each
    failed attempt. Both are called from tasks of this object, never from `publish`.
    """

    def __init__(
        self,
        writer: ListWriter,
        control: Control,
        stats: ControlStats,
        taken: Callable[[str, int], None],
        refused: Callable[[str, str], None],
        tasks: Tasks,
        membership: Membership,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._writer = writer
        self._control = control
        self._stats = stats
        self._taken = taken
        self._refused = refused
        self._tasks = tasks
        self._chance = chance
        self._turns = asyncio.Semaphore(control.publish_concurrency)
        self._copies: dict[str, _Copy] = {}
        self._membership = membership
        self._committed_at = 0.0
        self._awaited: set[str] = set()  # members that do not hold the present list yet

    def publish(self, membership: Membership, targets: Mapping[str, Course]) -> None:
        """From now on keep this list on exactly these backends."""
        for backend_id, copy in list(self._copies.items()):
            if targets.get(backend_id) != copy.course:
                del self._copies[backend_id]
                self._awaited.discard(backend_id)
                if copy.task is not None:
                    copy.task.cancel()
        if membership is not self._membership:
            self._membership = membership
            self._committed_at = asyncio.get_running_loop().time()
            members = {member.backend.id for member in membership.members}
            self._awaited = members & targets.keys()
            for copy in self._copies.values():
                copy.wake.set()
        for backend_id, course in targets.items():
            if backend_id not in self._copies:
                copy = self._copies[backend_id] = _Copy(course)
                copy.task = self._tasks.spawn(self._drive(copy))

    async def _drive(self, copy: _Copy) -> None:
        control = self._control
        backoff = Backoff(control.publish_retry_min_s, control.publish_retry_max_s)
        while True:
            if copy.held != self._membership.generation:
                try:
                    await self._write(copy)
                except OperationError as error:
                    self._failed(copy, str(error))
                    await woken(copy.wake, backoff.next_s(self._chance()))
                else:
                    backoff.reset()
                continue
            # Spread over the interval, so that hundreds of backends are not asked at once.
            pause_s = control.repair_interval_s * (0.5 + 0.5 * self._chance())
            if copy.doubtful:
                pause_s = min(pause_s, control.publish_timeout_s)
            if not await woken(copy.wake, pause_s) and not await self._intact(copy):
                copy.held = None

    async def _write(self, copy: _Copy) -> None:
        backend = copy.course.backend
        async with self._turns:
            membership = self._membership  # the newest, now that it is this one's turn
            copy.wake.clear()
            timeout_s = self._control.publish_timeout_s
            try:
                async with asyncio.timeout(timeout_s):
                    await self._writer.write(backend, membership)
            except TimeoutError:
                raise OperationError(f"timed out after {timeout_s:g} s") from None
        copy.held = membership.generation
        if copy.last_error:
            log.info("%s takes the list again", backend.name)
            copy.last_error = ""
        if membership is self._membership:
            self._arrived(backend.id)
        self._taken(backend.id, membership.generation)

    def _failed(self, copy: _Copy, reason: str) -> None:
        backend = copy.course.backend
        copy.held, copy.doubtful = None, True
        self._stats.publish_failures[backend.name] += 1
        if reason != copy.last_error:
            log.warning("%s does not take the list: %s", backend.name, reason)
            copy.last_error = reason
        self._refused(backend.id, reason)

    async def _intact(self, copy: _Copy) -> bool:
        """Ask a backend that should hold the present list whether it does."""
        backend, membership = copy.course.backend, self._membership
        try:
            async with self._turns, asyncio.timeout(self._control.publish_timeout_s):
                intact = await self._writer.holds(backend, membership)
        except (OperationError, TimeoutError) as error:
            log.info("%s cannot show its list: %s", backend.name, error or "timed out")
            return False
        if membership is not self._membership:
            return True  # what it held is no longer what it should hold
        if not intact:
            log.warning("%s served another list than %d", backend.name, membership.generation)
        copy.doubtful = copy.doubtful and not intact
        return intact

    def _arrived(self, backend_id: str) -> None:
        """One member fewer to wait for; with the last of them, the list is everywhere."""
        if backend_id not in self._awaited:
            return
        self._awaited.discard(backend_id)
        if not self._awaited:
            duration_s = asyncio.get_running_loop().time() - self._committed_at
            stats = self._stats
            stats.publish_count += 1
            stats.publish_sum_s += duration_s
            stats.publish_buckets[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1
