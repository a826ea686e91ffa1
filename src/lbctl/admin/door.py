"""The connections of the admin port: how many there may be, and how long each may take.

aiohttp reads and answers; what it does not have is an end to a client that never sends its request
or never reads its answer, a bound on how many connections there are, and words of ours for what is
no HTTP.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from lbctl.timed import TimedHandler

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

_WRITE_TIMEOUT_S = 30.0
_LINGER_S = 2.0  # for the rest of a body that nobody wants
_BACKLOG = 128
_READ_BUFFER_BYTES = 65_536

# What a peer sends that is no HTTP is its own affair, and would fill the log.
_QUIET = logging.getLogger("lbctl.admin.peers")
_QUIET.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of all connections together, and in seconds of each: for a whole head or a whole body, at
    rest, and for a reader that does not read.
    """

    connections: int = 256
    head_s: float = 10.0
    idle_s: float = 60.0
    write_s: float = _WRITE_TIMEOUT_S


class Door(web.BaseSite):
    """Listens for a runner on a bound socket, which is closed with it."""

    def __init__(
        self,
        runner: web.AppRunner,
        listener: socket.socket,
        bounds: Bounds,
        headers: Mapping[str, str],
    ) -> None:
        """`headers` are those of every answer."""
        super().__init__(runner)
        self.bounds = bounds
        self.headers = headers
        self._listener = listener
        self._resting: dict[Connection, None] = {}  # the one that rests longest comes first
        self._busy: set[Connection] = set()

    @property
    def name(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"http://{host}:{port}"

    async def start(self) -> None:
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection, sock=self._listener, backlog=_BACKLOG
        )

    def _connection(self) -> Connection:
        server = self._runner.server
        assert server is not None  # noqa: S101 - BaseSite takes no runner that was not set up
        return Connection(
            self,
            server,
            keepalive_timeout=self.bounds.idle_s,
            access_log=None,
            logger=_QUIET,
            lingering_time=_LINGER_S,
            read_bufsize=_READ_BUFFER_BYTES,
            auto_decompress=False,  # a small body must not become a big one
        )

    def enters(self, one: Connection) -> bool:
        """Whether there is room for it. If not, the one that rests longest makes room."""
        if len(self._resting) + len(self._busy) >= self.bounds.connections:
            if not self._resting:
                return False
            idlest = next(iter(self._resting))
            self.leaves(idlest)
            idlest.abort()
        self._resting[one] = None
        return True

    def leaves(self, one: Connection) -> None:
        self._resting.pop(one, None)
        self._busy.discard(one)

    def works(self, one: Connection) -> None:
        self.leaves(one)
        self._busy.add(one)

    def rests(self, one: Connection) -> None:
        self.leaves(one)
        self._resting[one] = None


class Connection(TimedHandler):
    """One client's."""

    def __init__(self, door: Door, server: web.Server, **options: Any) -> None:
        bounds = door.bounds
        super().__init__(server, head_s=bounds.head_s, write_s=bounds.write_s, **options)
        self._door = door
        self._inside = False
        self.on_lost: Callable[[], None] | None = None  # of an answer that does not end by itself

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._door.enters(self):
            assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows
            transport.abort()
            return
        self._inside = True
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._inside:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.leaves(self)
        if self.on_lost is not None:
            self.on_lost()
        super().connection_lost(exc)

    # What the server says

    def begins(self) -> None:
        super().begins()
        self._door.works(self)

    def ends(self) -> None:
        super().ends()
        if self.transport is not None:
            self._door.rests(self)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """The answer to what never became a request."""
        said = "this is no HTTP request" if status == 400 else "this request cannot be answered"
        response = web.Response(
            status=status,
            text=json.dumps({"error": said}),
            content_type="application/json",
            headers=self._door.headers,
        )
        response.force_close()
        return response
