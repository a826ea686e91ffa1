"""Fires one shot at a server and tells what came back, byte for byte."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from tests.support.deadlines import scaled

from benchmarks.support.mutations import Ending
from benchmarks.support.strict import NotHttpError, ShortError, take_answer

if TYPE_CHECKING:
    from benchmarks.support.mutations import Shot

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


@dataclass(frozen=True, slots=True)
class Seen:
    """All that came back until the connection ended."""

    data: bytes
    was_reset: bool

    def statuses(self, allowed: frozenset[int], *, may_be_head: bool) -> list[int]:
        """Of all responses in order. `may_be_head`: some may answer a HEAD; nobody can tell
        which, so a response is taken for one if nothing, or the next response, stands where its
        body should be.

        Raises NotHttpError unless it is one whole response after the other, each of an allowed
        status. After a reset the last one may be cut off: the kernel throws away what was not
        read by then.
        """
        found: list[int] = []
        rest = self.data
        while rest:
            after = rest[rest.find(b"\r\n\r\n") + 4 :] if b"\r\n\r\n" in rest else b"body"
            bodiless = may_be_head and (not after or after.startswith(b"HTTP/1.1 "))
            try:
                taken = take_answer(rest, bodiless=bodiless, ended=True)
            except ShortError:
                if self.was_reset:
                    break
                raise
            if taken is None:
                raise NotHttpError("a response without an end")
            answer, rest = taken
            if answer.status not in allowed:
                raise NotHttpError(f"status {answer.status}")
            found.append(answer.status)
        return found


class _Ear(asyncio.Protocol):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.heard: list[bytes] = []
        self.was_reset = False
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def eof_received(self) -> None:
        # libuv reports an end where a reset came right behind data; the kernel knows better.
        end = self.transport.get_extra_info("socket")
        self.was_reset = bool(end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def connection_lost(self, exc: Exception | None) -> None:
        self.was_reset = self.was_reset or exc is not None
        self.ended.set()


async def fire(port: int, shot: Shot, *, within_s: float) -> Seen:
    """Send a shot to a port of 127.0.0.1, and listen until the connection ends.

    Raises OSError, and TimeoutError if it has not ended `within_s` after the last byte.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(scaled(within_s)):
        transport, ear = await loop.create_connection(_Ear, "127.0.0.1", port)
    try:
        for number, piece in enumerate(shot.pieces):
            if number and shot.pause_s:
                await asyncio.sleep(shot.pause_s)
            if transport.is_closing():
                break
            transport.write(piece)
        if shot.ending is Ending.RESET:
            await asyncio.sleep(shot.pause_s)
            return Seen(b"".join(ear.heard), was_reset=True)
        if shot.ending is Ending.HALF_CLOSE and not transport.is_closing():
            transport.write_eof()
        async with asyncio.timeout(scaled(within_s)):
            await ear.ended.wait()
        return Seen(b"".join(ear.heard), ear.was_reset)
    finally:
        if not ear.ended.is_set():
            end = transport.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
