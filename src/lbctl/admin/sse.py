"""Server-sent events (HTML standard, section 9.2): a stream of them for each of many clients.

A stream has no queue of its own: whoever serves it keeps the place where its client is, sends what
comes next, and rests until there is more. So a client costs what it has not taken off the wire yet,
some 200 KiB at most, and one that takes nothing for `write_s` is dropped. One that takes it slowly
is not, however much it is sent at a time.

    async with self._streams.open(request) as stream:
        while stream.alive:
            for item in ...:
                await stream.send(encode(json.dumps(item), event="backend", id_=str(item.seq)))
            await stream.rest()  # until `stream.wake()`, or for so many seconds
    return stream.response
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from aiohttp import web

from lbctl.admin.door import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HEARTBEAT_S = 15.0
WRITE_S = 10.0
_UNSENT_BYTES = 65_536
_PIECE_BYTES = 65_536  # has `write_s` to itself
_UNACKNOWLEDGED_MS = 30_000
_HEARTBEAT = b": still here\n\n"


class Streams:
    """All streams of one admin port: `limit` at a time, and their end."""

    def __init__(
        self, limit: int, *, heartbeat_s: float = HEARTBEAT_S, write_s: float = WRITE_S
    ) -> None:
        """`write_s` is how long a client may leave what it was sent unread."""
        self._limit = limit
        self._heartbeat_s = heartbeat_s
        self._write_s = write_s
        self._open: set[Stream] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._open)

    @contextlib.asynccontextmanager
    async def open(self, request: web.Request) -> AsyncIterator[Stream]:
        """A stream that answers this request; its head is sent. A client that goes away, or is
        dropped, ends the block without an error.

        Raises web.HTTPServiceUnavailable where there are too many.
        """
        if self._closed or len(self._open) >= self._limit:
            raise web.HTTPServiceUnavailable(reason=f"there are {self._limit} streams already")
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - Door makes no others
        stream = Stream(connection, self._heartbeat_s, self._write_s)
        self._open.add(stream)
        connection.on_lost = stream.end
        try:
            # A reader that goes away in the middle of a write is how most streams end.
            with contextlib.suppress(ConnectionError):
                await stream.begin(request)
            with contextlib.suppress(ConnectionError):
                yield stream
        finally:
            connection.on_lost = None
            stream.end()
            self._open.discard(stream)

    def close(self) -> None:
        """End them all, each with the end of its answer; there are no new ones."""
        self._closed = True
        for stream in self._open:
            stream.end()


class Stream:
    """One client's. Made by `Streams.open`."""

    def __init__(self, connection: Connection, heartbeat_s: float, write_s: float) -> None:
        self._connection = connection
        self._heartbeat_s = heartbeat_s
        self._write_s = write_s
        self._wake = asyncio.Event()
        self._silent_since_s = 0.0
        self.alive = True
        self.response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )

    async def begin(self, request: web.Request) -> None:
        """Send the head. Who asks for the head only gets no more."""
        transport = request.transport
        self.alive = self.alive and request.method != "HEAD" and transport is not None
        if transport is not None and (own := transport.get_extra_info("socket")) is not None:
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
            # Of a machine that vanished no end ever comes, and the kernel would try for a quarter
            # of an hour to send it the next comment.
            if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
                own.setsockopt(socket.IPPROTO_TCP, option, _UNACKNOWLEDGED_MS)
        await self.response.prepare(request)
        if self.alive:
            await self._write(b"retry: 1000\n\n")

    async def send(self, block: bytes) -> None:
        """Send what `encode` made, once for many clients; it is on its way, or in a buffer of
        bounded size, when this returns.

        Raises ConnectionError where the client is gone, or took nothing for `write_s`: then
        it is dropped.
        """
        await self._write(block)

    async def rest(self, within_s: float | None = None) -> bool:
        """Wait until somebody wakes it, or `within_s` is over. Meanwhile the client hears a
        comment every `heartbeat_s`, so that nothing on the way takes the silence for an end.

        Returns whether it was woken. Raises ConnectionError as `send`.
        """
        clock = asyncio.get_running_loop().time
        end_s = None if within_s is None else clock() + within_s
        while self.alive and not self._wake.is_set():
            due_s = self._silent_since_s + self._heartbeat_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due_s if end_s is None else min(due_s, end_s)):
                    await self._wake.wait()
                    break
            if end_s is not None and clock() >= end_s:
                return False
            await self._write(_HEARTBEAT)
        self._wake.clear()
        return True

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def end(self) -> None:
        """`alive` is over; whoever serves it returns soon."""
        self.alive = False
        self._wake.set()

    async def _write(self, block: bytes) -> None:
        if len(block) <= _PIECE_BYTES:
            await self._write_piece(block)
            return
        whole = memoryview(block)
        for start in range(0, len(block), _PIECE_BYTES):
            await self._write_piece(whole[start : start + _PIECE_BYTES])

    async def _write_piece(self, piece: bytes | memoryview) -> None:
        loop = asyncio.get_running_loop()
        self._silent_since_s = loop.time()
        try:
            async with asyncio.timeout(self._write_s):
                await self.response.write(piece)
        except TimeoutError:
            self.end()
            self._connection.abort()
            raise ConnectionError("the client does not read") from None
        except ConnectionError:
            self.end()
            raise


def encode(data: str, event: str = "", id_: str = "") -> bytes:
    """One event. Lines of `data` stay lines. Raises ValueError where a name could be two lines."""
    if any(char in name for name in (event, id_) for char in "\r\n\0"):
        raise ValueError("the name or id of an event is one line")
    lines = [f"id: {id_}"] if id_ else []
    if event:
        lines.append(f"event: {event}")
    lines += [f"data: {line}" for line in _lines(data)]
    return ("\n".join(lines) + "\n\n").encode()


def _lines(text: str) -> list[str]:
    """What a reader of the stream takes for lines; not what Python does (U+2028 is none)."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
