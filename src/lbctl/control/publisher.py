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
from lbctl.core.history import published, unheard
from lbctl.errors import OperationError
from lbctl.model import DURATION_BUCKETS_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lbctl.config import Control
    from lbctl.control.tasks import Tasks
    from lbctl.core.history import Event
    from lbctl.core.membership import Course
    from lbctl.model import Backend, ControlStats, Membership
    from lbctl.ports import ListWriter

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Copy:
    """One backend's copy of the list, as far as the publisher knows."""

    course: Course
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    held: int | None = None  # generation
    doubtful: bool = False  # a write failed since the last check: it may still be carried out
    round: int = -1  # of the last write that it took
    writing: int | None = None  # of the one under way
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
        record: Callable[[Event], None] = unheard,
    ) -> None:
        self._writer = writer
        self._control = control
        self._stats = stats
        self._taken = taken
        self._refused = refused
        self._tasks = tasks
        self._chance = chance
        self._record = record
        self._turns = asyncio.Semaphore(control.publish_concurrency)
        self._copies: dict[str, _Copy] = {}
        self._membership = membership
        self._committed_at = 0.0
        self._awaited: set[str] = set()  # members that do not hold the present list yet
        self._holders = 0  # members that do
        self._round = 0
        self.departures = 0  # how often one was taken off those that the list is kept on

    def recipients(self) -> list[Backend]:
        """The backends that the list is kept on."""
        return [copy.course.backend for copy in self._copies.values()]

    def publish(self, membership: Membership, targets: Mapping[str, Course]) -> None:
        """From now on keep this list on exactly these backends."""
        for backend_id, copy in list(self._copies.items()):
            if targets.get(backend_id) != copy.course:
                del self._copies[backend_id]
                self.departures += 1
                self._awaited.discard(backend_id)
                if copy.task is not None:
                    copy.task.cancel()
        if membership is not self._membership:
            self._membership = membership
            self._committed_at = asyncio.get_running_loop().time()
            members = {member.backend.id for member in membership.members}
            self._awaited, self._holders = members & targets.keys(), 0
            for copy in self._copies.values():
                copy.wake.set()
        for backend_id, course in targets.items():
            if backend_id not in self._copies:
                copy = self._copies[backend_id] = _Copy(course)
                copy.task = self._tasks.spawn(self._drive(copy))

    def rewrite(self) -> Callable[[], tuple[int, list[tuple[str, str]]]]:
        """Write to every target anew, changed or not; for a secret that was exchanged, and is
        read anew for each write. What is returned tells at any time how many have taken such a
        write, and who has yet to: (name, why not). Who has only ever refused lists is not
        waited for, but for the end of a write that is under way.
        """
        self._round += 1
        present, asked = self._round, list(self._copies.values())
        expected = {copy for copy in asked if copy.round >= 0 or not copy.last_error}
        for copy in asked:
            copy.wake.set()

        def lags(copy: _Copy) -> bool:
            old_write = copy.writing is not None and copy.writing < present
            return old_write or (copy in expected and copy.round < present)

        def progress() -> tuple[int, list[tuple[str, str]]]:
            there = [copy for copy in asked if self._copies.get(copy.course.backend.id) is copy]
            behind = [
                (copy.course.backend.name, copy.last_error or "not written to yet")
                for copy in there
                if lags(copy)
            ]
            return sum(copy.round >= present for copy in there), behind

        return progress

    async def _drive(self, copy: _Copy) -> None:
        control = self._control
        backoff = Backoff(control.publish_retry_min_s, control.publish_retry_max_s)
        while True:
            if copy.held != self._membership.generation or copy.round != self._round:
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
            copy.writing = begun = self._round
            try:
                async with asyncio.timeout(timeout_s):
                    await self._writer.write(backend, membership)
            except TimeoutError:
                raise OperationError(f"timed out after {timeout_s:g} s") from None
            finally:
                copy.writing = None
        copy.held, copy.round = membership.generation, begun
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
        self._holders += 1
        if not self._awaited:
            duration_s = asyncio.get_running_loop().time() - self._committed_at
            stats = self._stats
            stats.publish_sum_s += duration_s
            stats.publish_buckets[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1
            self._record(published(self._membership.generation, self._holders, duration_s))
