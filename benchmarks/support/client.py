"""A client's connection that hides nothing: no retry, no repair, every wait with a deadline."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

from tests.support.deadlines import scaled

from benchmarks.support.strict import NotHttpError, take_answer

if TYPE_CHECKING:
    from benchmarks.support.strict import Answer

ANSWER_S = 5.0
"""An answer that takes longer counts as none. A request that meets a backend which is gone waits
for a connect timeout (2 s) and then goes to another one.
"""
_READ_BYTES = 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


class Connection:
    """One connection to a server; make it with `open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = b""
        self._ended = False

    @classmethod
    async def open(cls, port: int, *, receive_buffer_bytes: int = 0) -> Connection:
        """Connect to a port of 127.0.0.1. Raises OSError."""
        end = socket.socket()
        try:
            end.setblocking(False)
            if receive_buffer_bytes:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            async with asyncio.timeout(scaled(ANSWER_S)):
                await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", port))
                return cls(*await asyncio.open_connection(sock=end, limit=_READ_BYTES))
        except BaseException:
            end.close()
            raise

    @property
    def ended(self) -> bool:
        """Whether the server is known to have closed it: no other request may go out on it."""
        return self._ended or self._reader.at_eof() or self._writer.is_closing()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(
        self, *, bodiless: bool = False, at_once: int = _READ_BYTES, pause_s: float = 0.0
    ) -> Answer:
        """The next response, final or interim; `bodiless` if it is that to a HEAD.

        A slow reader reads `at_once` bytes and rests `pause_s` in between: then the deadline is
        that of each read. Raises OSError (TimeoutError included) and NotHttpError.
        """
        while True:
            taken = take_answer(self._buffer, bodiless=bodiless, ended=self._ended)
            if taken is not None:
                answer, self._buffer = taken
                return answer
            if self._ended:
                raise NotHttpError("the connection ended without an answer")
            async with asyncio.timeout(scaled(ANSWER_S)):
                data = await self._reader.read(at_once)
            self._ended = not data
            self._buffer += data
            if pause_s:
                await asyncio.sleep(pause_s)

    async def end(self) -> None:
        """Until the server closes. Raises NotHttpError if it says anything more."""
        async with asyncio.timeout(scaled(ANSWER_S)):
            more = self._buffer + await self._reader.read(_READ_BYTES)
        if more:
            raise NotHttpError(f"behind the last answer: {more[:200]!r}")

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Leave without a word: the server's next write meets a reset."""
        end = self._writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._writer.transport.abort()
