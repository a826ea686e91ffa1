"""Takes connections from the listening sockets that all workers share.

All workers wait on the same sockets, so a connection is never bound to a worker that died or
hangs: whoever is awake takes it. Left alone, the first to wake up would take most of them;
therefore a worker that already has more connections than the least busy one, by a margin,
leaves new ones alone for a moment. If nobody else took them by then it does: fairness may
cost some milliseconds, never a connection.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Sequence

    from lbctl.proxy.forwarder import Forwarder

_log = logging.getLogger("lbctl.proxy")

_BATCH = 16
_YIELD_S = 0.001
_PATIENCE = 4
"""So many times in a row new connections are left to the others."""
_FULL_PAUSE_S = 0.02
_FAILED_PAUSE_S = 0.1


class Listener:
    """Accepts on `sockets`, fairly.

    `others()` gives the connection counts of the other workers that are alive.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        sockets: Sequence[socket.socket],
        others: Callable[[], list[int]],
    ) -> None:
        self._forwarder = forwarder
        self._loop = forwarder.loop
        self._sockets = sockets
        self._others = others
        self._yielded = 0
        self._failing = False  # so that a lasting failure is logged once
        self._accepts: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        for one in self._sockets:
            one.setblocking(False)
            self._loop.add_reader(one.fileno(), self._ready, one)

    def stop(self) -> None:
        """Take no more; what was accepted goes on."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for one in self._sockets:
            self._loop.remove_reader(one.fileno())

    def _ready(self, listening: socket.socket) -> None:
        for _ in range(_BATCH):
            mine = len(self._forwarder.downstreams) + len(self._accepts)
            if mine >= self._forwarder.limits.connections_per_worker:
                self._rest(_FULL_PAUSE_S)  # they are for the others, however long it takes
                return
            if self._yielded < _PATIENCE and self._ahead(mine):
                self._yielded += 1
                self._rest(_YIELD_S)
                return
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                self._yielded = 0
                return
            except OSError as error:  # out of files or memory, most likely; it may pass
                if not self._failing:
                    _log.warning("cannot accept connections for now: %s", error.strerror)
                self._failing = True
                self._rest(_FAILED_PAUSE_S)
                return
            self._failing = False
            self._take(connection, str(address[0]))
        self._yielded = 0

    def _ahead(self, mine: int) -> bool:
        others = self._others()
        return bool(others) and mine > min(others) + 1 + mine // 16

    def _rest(self, seconds: float) -> None:
        self.stop()
        self._pause = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self.start()

    def _take(self, connection: socket.socket, ip: str) -> None:
        client = self._forwarder.client(ip)
        task: asyncio.Task[object] = self._loop.create_task(self._adopt(client, connection))
        self._accepts.add(task)
        task.add_done_callback(self._accepts.discard)

    async def _adopt(self, client: asyncio.Protocol, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: client, connection)
        except OSError:
            connection.close()  # gone before we got to it
