"""A server that behaves until it is told not to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

from tests.support.deadlines import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Served-By: %b\r\n\r\nok"
_LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Served-By: %b\r\nConnection: close\r\n\r\nok"
MISBEHAVIOUR = {
    "502": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    "of no backend": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "not HTTP": b"SMTP, rather\r\n\r\n",
    "closed": b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf",
}
"""What is sent in place of an answer, before the connection ends, by the failure that it is."""


class Server:
    """Of several backends, which take turns. `behaviour`: "good", "last" (a good answer after
    which the connection ends), "hung", "reset", or one of MISBEHAVIOUR.
    """

    def __init__(self, backends: int) -> None:
        self.behaviour = "good"
        self.port = 0
        self.connections = 0  # so far
        self.open = 0
        self._backends = backends
        self.answered = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                if self.behaviour == "hung":
                    await reader.read()
                elif self.behaviour == "reset":
                    linger = struct.pack("ii", 1, 0)
                    end = writer.get_extra_info("socket")
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                elif self.behaviour in ("good", "last"):
                    self.answered += 1
                    number = b"%d" % (self.answered % self._backends)
                    writer.write((_GOOD if self.behaviour == "good" else _LAST) % number)
                else:
                    writer.write(MISBEHAVIOUR[self.behaviour])
                if self.behaviour != "good":
                    break
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self.open -= 1


@contextlib.asynccontextmanager
async def serving(backends: int = 1) -> AsyncIterator[Server]:
    """On a free port of 127.0.0.1; ends when its clients have left."""
    server = Server(backends)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield server
        await eventually(lambda: not server.open)
