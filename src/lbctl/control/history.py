"""The journal: from the event loop, which never waits for it, to the archive and back.

Two threads of its own: one writes, one answers questions. What is recorded goes through a queue of
bounded length; when the writer has numbered and stored it, it comes back, and whoever listens is
woken. The latest records stay in memory, so that those who follow cost the disk nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from lbctl.control.archive import Archive
from lbctl.control.database import is_damage
from lbctl.control.reader import Reader
from lbctl.control.reconciler import utc_now
from lbctl.control.snapshots import Snapshots
from lbctl.core.history import Event, Kind, Span, to_ms
from lbctl.errors import OperationError
from lbctl.model import HistoryState, HistoryStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from lbctl.control.aging import Limits
    from lbctl.core.history import Listed, Record
    from lbctl.model import ControlStats, Membership
    from lbctl.paths import Paths

T = TypeVar("T")

log = logging.getLogger("lbctl.history")

QUEUE_LIMIT = 10_000
_BATCH = 500
_RECENT = 1_000
_IDLE_S = 30.0
_RETRY_S = 1.0
_CLOSE_S = 2.0
_RESTORED = "it was in force before the history knew of it"

Settled = asyncio.Future[None]


class History:
    """Implements ports.Journal between `start` and `close`; tells `stats.history` how it is."""

    def __init__(
        self,
        paths: Paths,
        limits: Limits,
        stats: ControlStats,
        *,
        wall: Callable[[], datetime] = utc_now,
    ) -> None:
        self._wall = wall
        self._stats = stats
        self._snapshots = Snapshots(paths.memberships)
        self._snapshot_problem = ""
        self._archive = Archive(
            paths.history, Snapshots(paths.memberships), limits, lambda: to_ms(wall())
        )
        self._reader = Reader(paths.history)
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="history-reader")
        self._queue: queue.SimpleQueue[tuple[Event, int] | Settled | None] = queue.SimpleQueue()
        self._dropped = 0
        self._fault = ""  # of ours, since when nothing went well
        self._settling: Settled | None = None  # for all that was recorded so far
        self._recent: list[Record] = []
        self._wakers: set[Callable[[], None]] = set()
        self._last = 0
        self._ended = asyncio.Event()
        self._writer = threading.Thread(target=self._write, name="history-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop

    def start(self, saved: Membership | None = None) -> None:
        """Open what there is, in the background: what is recorded meanwhile waits.

        `saved` is the list to go on with. Whoever saved it may have been killed before it told of
        it, or kept no history yet; then it is told of now.
        """
        self._loop = asyncio.get_running_loop()
        if saved is not None and saved.generation and not self._archive.restored(saved, _RESTORED):
            self._put_down(Event(Kind.GENERATION, _RESTORED, membership=saved))
        self._writer.start()

    async def close(self) -> None:
        """Store what was recorded, as far as that is soon done."""
        self._queue.put(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._ended.wait()
        self._asking.shutdown(wait=False, cancel_futures=True)

    # What is told

    def record(self, event: Event) -> None:
        self._settling = None
        if event.membership is not None:
            self._put_down(event)
        elif self._queue.qsize() >= QUEUE_LIMIT:  # lists are few, and others build on them
            self._dropped += 1
            return
        self._queue.put((event, to_ms(self._wall())))

    def _put_down(self, event: Event) -> None:
        """The list's own file, before anybody is given the list."""
        assert event.membership is not None  # noqa: S101 - narrows
        try:
            self._snapshots.write(event.membership, event.text)
        except OSError as error:
            text = f"lists are not written down: {error.strerror or error}"
            if text != self._snapshot_problem:
                log.warning("%s", text)
            self._snapshot_problem = text
        else:
            self._snapshot_problem = ""

    async def settled(self, within_s: float) -> None:
        done = self._settling
        if done is None:  # else as many as ask wait for the same, however long that takes
            done = self._settling = self._loop.create_future()
            self._queue.put(done)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.shield(done)

    @contextlib.contextmanager
    def listening(self, wake: Callable[[], None]) -> Iterator[None]:
        self._wakers.add(wake)
        try:
            yield
        finally:
            self._wakers.discard(wake)

    # What is asked

    @property
    def last(self) -> int:
        return self._last

    async def after(self, seq: int, limit: int) -> Sequence[Record]:
        recent = self._recent
        if seq > self._last:  # a number of a history that is lost
            return recent[:limit]
        if not recent or seq < recent[0].seq - 1:
            found = await self.records(Span(limit, after=seq, oldest=True))
            if found:
                return found
        start = bisect_right(recent, seq, key=lambda record: record.seq)
        return recent[start : start + limit]

    async def records(self, span: Span) -> Sequence[Record]:
        return await self._ask(lambda: self._reader.records(span))

    async def lists(self, span: Span) -> Sequence[Listed]:
        return await self._ask(lambda: self._reader.lists(span))

    async def list_at(self, moment: datetime) -> Listed | None:
        at_ms = to_ms(moment)
        return await self._ask(lambda: self._reader.at(at_ms))

    async def _ask(self, question: Callable[[], T]) -> T:
        try:
            return await self._loop.run_in_executor(self._asking, question)
        except (OSError, sqlite3.Error) as error:
            if is_damage(error) and self._archive.suspect():
                self._queue.put(self._loop.create_future())  # wakes the writer
            raise OperationError(f"the history cannot be read now: {error}") from None
        except ValueError as error:  # it is repaired when it is old enough to move
            raise OperationError(f"the history has damage there: {error}") from None

    # The writer's thread

    def _write(self) -> None:
        archive, dropped = self._archive, 0
        self._keep([], [])
        going_on = True
        while going_on:
            failing = archive.problem or self._fault
            events, settled, going_on = self._take(_RETRY_S if failing else _IDLE_S)
            archive.lose(self._dropped - dropped)
            dropped = self._dropped
            self._keep(events, settled)
        try:
            archive.close()
        except Exception as error:  # noqa: BLE001 - as in _keep
            self._failed(error)
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            self._loop.call_soon_threadsafe(self._ended.set)

    def _keep(self, events: list[tuple[Event, int]], settled: list[Settled]) -> None:
        """Store these, and tidy up."""
        unkept = len(events)
        try:
            records = self._archive.append(events)
            unkept = 0
            self._tell(records, settled)
            self._archive.tidy()
        except Exception as error:  # noqa: BLE001 - whatever it is: the controller goes on, and says so
            self._archive.lose(unkept)
            self._failed(error)
            self._tell([], settled)
        else:
            if self._fault:
                self._fault = ""
                self._tell([], [])

    def _failed(self, error: Exception) -> None:
        fault = f"this should not happen to the history: {error!r}"
        if fault != self._fault:
            log.error("%s", fault, exc_info=error)
        self._fault = fault

    def _take(self, within_s: float) -> tuple[list[tuple[Event, int]], list[Settled], bool]:
        """What there is, once there is something: events, who waits for them, whether to go on."""
        events: list[tuple[Event, int]] = []
        settled: list[Settled] = []
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=within_s)
            while True:
                if item is None:
                    return events, settled, False
                if isinstance(item, asyncio.Future):
                    settled.append(item)
                else:
                    events.append(item)
                if len(events) >= _BATCH:
                    break
                item = self._queue.get_nowait()
        return events, settled, True

    def _tell(self, records: list[Record], settled: list[Settled]) -> None:
        archive = self._archive
        problem = archive.problem or self._fault
        if problem and archive.waiting:
            problem += f"; {archive.waiting} events wait in memory"
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(
                self._told, records, settled, archive.last, problem, archive.lost, archive.rows
            )

    # Back on the loop

    def _told(
        self,
        records: list[Record],
        settled: list[Settled],
        last: int,
        problem: str,
        lost: int,
        stored: int,
    ) -> None:
        self._last = last
        self._recent += records
        if len(self._recent) > 2 * _RECENT:
            del self._recent[:-_RECENT]
        message = problem or self._snapshot_problem
        state = HistoryState.FAILING if message else HistoryState.KEPT
        self._stats.history = HistoryStatus(state, message, lost, stored)
        for done in settled:
            if not done.done():
                done.set_result(None)
        if records:
            for wake in list(self._wakers):
                wake()
