"""Takes connections from the listening sockets that all workers share.

All workers wait on the same sockets, so a connection is never bound to a worker that died or
hangs: whoever is awake takes it. Left alone, the first to wake up would take most of them;
therefore a worker that has more connections than the least busy one, by a margin, stops
listening for a moment. If nobody else took them by then it does: fairness may cost some
milliseconds, never a connection.

Accepting is libuv's: half the cost of a connection that is accepted in Python and handed to the
event loop. It takes all that wait at that moment, so the limit of connections may be passed by
the length of the queue, and a pause begins with the turn after.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from functools import partial
from socket import IPPROTO_TCP, TCP_NOTSENT_LOWAT
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from lbctl.proxy.forwarder import Forwarder
    from lbctl.proxy.tls import TlsPort

_log = logging.getLogger("lbctl.proxy")

BACKLOG = 4096
_YIELD_S = 0.001
_PATIENCE = 4
"""So many times in a row new connections are left to the others."""
_FULL_PAUSE_S = 0.02
_RENEW_S = 1.0
"""At its first error (no memory, no files) libuv gives a listening handle up for good; so all of
them are made anew that often."""
_OTHER_FILES = 256


class Listener:
    """Accepts on `sockets`, fairly.

    `others()` gives the connection counts of the other workers that are alive. On `tls_sockets`
    clients are those of `tls`.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        sockets: Sequence[socket.socket],
        others: Callable[[], list[int]],
        tls_sockets: Sequence[socket.socket] = (),
        tls: TlsPort | None = None,
    ) -> None:
        self._forwarder = forwarder
        self._loop = forwarder.loop
        self._clients: list[tuple[socket.socket, Callable[[], asyncio.Protocol]]]
        self._clients = [(one, forwarder.client) for one in sockets]
        if tls is not None:
            self._clients += [(one, tls.client) for one in tls_sockets]
        self._others = others
        self._limit = _limit(forwarder.limits.connections_per_worker)
        self._unsent_bytes = 2 * forwarder.limits.write_buffer_bytes
        self._yielded = 0
        self._judging = False
        self._stopped = True
        self._servers: list[asyncio.Server] = []
        self._opened = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._stopped = False
        self._listen()

    async def opened(self) -> None:
        """Return when it listens for the first time."""
        await self._opened.wait()

    def stop(self) -> None:
        """Take no more; what was accepted goes on."""
        self._stopped = True
        self._close()

    def _listen(self) -> None:
        self._opening = self._loop.create_task(self._open())

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
        for server in self._servers:
            server.close()
        self._servers = []

    async def _open(self) -> None:
        self._timer = self._loop.call_later(_RENEW_S, self._again)
        try:
            for one, client in self._clients:
                own = one.dup()  # closed with its server
                own.setblocking(False)
                # Every connection inherits it: a reader's pace is seen by what it takes, not by
                # the megabytes that fit into the kernel's buffer.
                own.setsockopt(IPPROTO_TCP, TCP_NOTSENT_LOWAT, self._unsent_bytes)
                server = await self._loop.create_server(
                    partial(self._client, client), sock=own, backlog=BACKLOG
                )
                self._servers.append(server)
            self._opened.set()
        except OSError as error:  # no files, most likely; it is tried again soon
            _log.warning("cannot listen for now: %s", error.strerror)

    def _client(self, client: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """Called by the event loop for each connection, before it tells who it is from."""
        if not self._judging:
            self._judging = True
            self._loop.call_soon(self._after_all_were_taken)
        return client()

    def _after_all_were_taken(self) -> None:
        self._loop.call_soon(self._judge)  # behind their connection_made()

    def _judge(self) -> None:
        self._judging = False
        self._yielded = 0
        pause_s = self._pause_s()
        if pause_s and not self._stopped:
            self._rest(pause_s)

    def _pause_s(self) -> float:
        """How long to leave new connections alone: not at all, in most cases."""
        mine = len(self._forwarder.downstreams)
        if mine >= self._limit:
            return _FULL_PAUSE_S  # they are for the others, however long it takes
        others = self._others()
        ahead = bool(others) and mine > min(others) + 1 + mine // 16
        return _YIELD_S if ahead and self._yielded < _PATIENCE else 0.0

    def _rest(self, seconds: float) -> None:
        self._close()
        self._timer = self._loop.call_later(seconds, self._again)

    def _again(self) -> None:
        pause_s = self._pause_s()
        if pause_s == _YIELD_S:
            self._yielded += 1
        self._close()
        if pause_s:
            self._rest(pause_s)
        else:
            self._listen()


def _limit(connections: int) -> int:
    """As many as there are files for. A third of those is kept for connections to backends: not
    every client has a request under way.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return connections
    most = max(files - files // 3 - _OTHER_FILES, 1)
    if most < connections:
        _log.warning("%d open files allow for %d connections, not %d", files, most, connections)
    return min(connections, most)
