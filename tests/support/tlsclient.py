"""A TLS client that is driven by hand: it sees the end of each direction for itself, which
asyncio's and the standard library's sockets hide.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING

from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from collections.abc import Awaitable

_STEP_S = 10.0


async def _step(awaitable: Awaitable[bytes]) -> bytes:
    async with asyncio.timeout(scaled(_STEP_S)):
        return await awaitable


class TlsClient:
    """One connection. `made` and then the rest; close it in the end."""

    def __init__(self, end: socket.socket, context: ssl.SSLContext, host: str | None) -> None:
        self._socket = end
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self.buffer = b""

    @classmethod
    async def connected(
        cls, port: int, context: ssl.SSLContext, host: str | None = None
    ) -> TlsClient:
        """Without a handshake yet."""
        end = socket.socket()
        end.setblocking(False)
        await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", port))
        return cls(end, context, host)

    @classmethod
    async def made(
        cls,
        port: int,
        context: ssl.SSLContext,
        host: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> TlsClient:
        """With its handshake done. Raises ssl.SSLError, or ConnectionError where it was cut."""
        client = await cls.connected(port, context, host)
        if session is not None:
            client.tls.session = session
        try:
            while True:
                try:
                    client.tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await client.flush()
                    await client._fill()
            await client.flush()
        except BaseException:
            client.close()
            raise
        return client

    async def flush(self) -> None:
        """Send what TLS has to say."""
        if self._out.pending:
            await asyncio.get_running_loop().sock_sendall(self._socket, self._out.read())

    async def _fill(self) -> None:
        data = await _step(asyncio.get_running_loop().sock_recv(self._socket, 262_144))
        if not data:
            raise ConnectionError("cut off")
        self._in.write(data)

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        await self.flush()

    async def send_raw(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def some(self) -> bytes:
        """What comes next; empty where the other end said in TLS that this was all.

        Raises ConnectionError where it just ended.
        """
        while True:
            try:
                data = self.tls.read(65_536)
            except ssl.SSLWantReadError:
                await self.flush()
                await self._fill()
            except ssl.SSLZeroReturnError:
                return b""
            else:
                return data

    async def until(self, end: bytes) -> bytes:
        """Everything up to and including `end`."""
        while end not in self.buffer:
            data = await self.some()
            assert data, f"ended behind {self.buffer!r}"
            self.buffer += data
        found, self.buffer = self.buffer.split(end, 1)
        return found + end

    async def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            data = await self.some()
            assert data, f"ended after {len(self.buffer)} bytes"
            self.buffer += data
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    async def rest(self) -> bytes:
        """Everything up to the end that TLS says."""
        while data := await self.some():
            self.buffer += data
        found, self.buffer = self.buffer, b""
        return found

    async def end(self) -> None:
        """Say that no more comes; what the other end sends is read on."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        await self.flush()

    def shut(self) -> None:
        """A FIN, of which TLS knows nothing."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()
