"""A proxy on real sockets between clients and backends that do what the test says, step by step.

Every wait has a deadline: a step that never comes fails the test with a TimeoutError.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lbctl.config import Balancing, Config, Health, Limits, Retries, Timeouts, Tls, Trust
from lbctl.model import Backend, Failure, Snapshot
from lbctl.proxy.accesslog import AccessLog
from lbctl.proxy.forwarder import Forwarder
from lbctl.proxy.listener import Listener
from lbctl.proxy.tls import TlsPort
from tests.support.deadlines import eventually, scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

    from lbctl.certificates import Credentials
    from lbctl.proxy.pool import Pool

T = TypeVar("T")
_STEP_S = 5.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


async def step(awaitable: Awaitable[T]) -> T:
    """Wait for one step of a script."""
    async with asyncio.timeout(scaled(_STEP_S)):
        return await awaitable


class Peer:
    """One end of a connection, driven by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.taken = 0  # bytes that the other side sent and the test has read

    async def _took(self, reading: Awaitable[bytes]) -> bytes:
        data = await step(reading)
        self.taken += len(data)
        return data

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def sent(self) -> None:
        """Until what was sent is (nearly all) in the kernel's hands."""
        await step(self.writer.drain())

    async def head(self) -> bytes:
        """Everything up to and including an empty line."""
        return await self._took(self._reader.readuntil(b"\r\n\r\n"))

    async def next_head(self) -> bytes:
        """The same, however long it takes."""
        return await self._reader.readuntil(b"\r\n\r\n")

    def at_end(self) -> bool:
        """Whether the other side has closed, and all it sent was read."""
        return self._reader.at_eof()

    async def exactly(self, count: int) -> bytes:
        return await self._took(self._reader.readexactly(count))

    async def expect(self, data: bytes) -> None:
        assert await self.exactly(len(data)) == data

    async def some(self) -> bytes:
        return await self._took(self._reader.read(65_536))

    async def rest(self) -> bytes:
        """Everything up to the end; raises ConnectionResetError if that is not a clean one."""
        return await self._took(self._reader.read())

    async def ended(self) -> None:
        """Until the other side closed, having sent nothing more."""
        assert await self.rest() == b""

    async def gone(self) -> None:
        """Until the other side closed or reset, whatever it sent before."""
        try:
            await self.rest()
        except ConnectionError:
            return

    def half_close(self) -> None:
        self.writer.write_eof()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        end = self.writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.writer.transport.abort()


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as a client reads it; `fields` have lower-case names."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes


class Client(Peer):
    """A client of the proxy."""

    async def reply(self, *, to: bytes = b"GET") -> Reply:
        """Read one response, the way its head says it ends."""
        head = await self.head()
        line, *lines = head[:-4].split(b"\r\n")
        fields: dict[bytes, bytes] = {}
        for one in lines:
            name, _, value = one.partition(b":")
            assert name.lower() not in fields, f"twice: {name!r}"
            fields[name.lower()] = value.strip()
        status = int(line.split(b" ")[1])
        if to == b"HEAD" or status < 200 or status in (204, 304):
            body = b""
        elif fields.get(b"transfer-encoding") == b"chunked":
            body = await self._chunks()
        elif b"content-length" in fields:
            body = await self.exactly(int(fields[b"content-length"]))
        else:
            body = await self.rest()
        return Reply(status, fields, body)

    async def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            size = int((await step(self._reader.readuntil(b"\r\n"))).split(b";")[0], 16)
            if not size:
                await self.expect(b"\r\n")
                return b"".join(parts)
            parts.append(await self.exactly(size))
            await self.expect(b"\r\n")

    async def get(self, target: str = "/", *lines: str) -> None:
        """Send a GET without a body."""
        more = "".join(f"{line}\r\n" for line in lines)
        self.send(f"GET {target} HTTP/1.1\r\nHost: site\r\n{more}\r\n".encode())


class ScriptedBackend:
    """A listening socket; the test takes its connections one by one."""

    def __init__(self, name: str, port: int, *, id: str = "") -> None:  # noqa: A002
        self.backend = Backend(id=id or f"id-{name}", name=name, ip="127.0.0.1", port=port)
        self.accepted = 0
        self._waiting: asyncio.Queue[Peer] = asyncio.Queue()
        self._peers: list[Peer] = []
        self._server: asyncio.Server | None = None

    async def listen(self, listening: socket.socket) -> None:
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=16_384)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.accepted += 1
        self._peers.append(peer)
        self._waiting.put_nowait(peer)

    async def connection(self) -> Peer:
        """The next connection that was not taken yet."""
        return await step(self._waiting.get())

    async def next_connection(self) -> Peer:
        """The same, however long it takes."""
        return await self._waiting.get()

    async def request(self) -> tuple[Peer, bytes]:
        """The next connection, and the first head on it."""
        peer = await self.connection()
        return peer, await peer.head()

    def refuse(self) -> None:
        """From now on connections are refused."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        self.refuse()
        for peer in self._peers:
            peer.writer.transport.abort()


class Proxy:
    """Forwarder and Listener between scripted ends."""

    def __init__(self, config: Config, credentials: Credentials | None = None) -> None:
        self.lines: list[str] = []
        self.suspects: list[str] = []
        self.failing: list[tuple[str, Failure]] = []
        self.settled = 0
        self.others: list[int] = []
        self.forwarder = Forwarder(
            config,
            access_log=AccessLog(self.lines.append),
            on_suspect=self.suspects.append,
            on_failing=lambda backend_id, cause: self.failing.append((backend_id, cause)),
            on_settled=self._on_settled,
        )
        self.socket = loopback()
        self.tls_socket = loopback()
        self.tls = tls = TlsPort(self.forwarder, credentials) if credentials else None
        self.listener = Listener(
            self.forwarder, [self.socket], lambda: self.others, [self.tls_socket], tls
        )
        self.listener.start()
        self._clients: list[Client] = []
        self._backends: list[ScriptedBackend] = []

    def _on_settled(self) -> None:
        self.settled += 1

    @property
    def port(self) -> int:
        return cast("int", self.socket.getsockname()[1])

    @property
    def tls_port(self) -> int:
        return cast("int", self.tls_socket.getsockname()[1])

    async def backend(self, name: str, *, id: str = "") -> ScriptedBackend:  # noqa: A002
        """A backend that listens, but is not routed to yet."""
        # Small, so that a backend that does not read is felt soon.
        listening = loopback(receive_buffer_bytes=16_384)
        made = ScriptedBackend(name, listening.getsockname()[1], id=id)
        await made.listen(listening)
        self._backends.append(made)
        return made

    def route(self, *backends: ScriptedBackend) -> None:
        """Route to exactly these, from the next request on."""
        revision = self.forwarder.revision + 1
        routes = tuple(one.backend for one in backends)
        self.forwarder.apply(Snapshot(revision=revision, generation=revision, routes=routes))

    async def client(self, *, receive_buffer_bytes: int = 0) -> Client:
        end = socket.socket()
        end.setblocking(False)
        if receive_buffer_bytes:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        loop = asyncio.get_running_loop()
        await step(loop.sock_connect(end, ("127.0.0.1", self.port)))
        client = Client(*await asyncio.open_connection(sock=end, limit=16_384))
        self._clients.append(client)
        return client

    def pool(self, backend: ScriptedBackend) -> Pool:
        return self.forwarder.pools[backend.backend.id]

    def in_flight(self) -> int:
        return sum(pool.in_flight for pool in self.forwarder.pools.values())

    async def at_rest(self) -> None:
        """Until no request is under way."""
        await eventually(lambda: self.in_flight() == 0)

    async def close(self) -> None:
        self.listener.stop()
        for client in self._clients:
            client.writer.transport.abort()
        self.forwarder.close()
        for backend in self._backends:
            await backend.close()
        await eventually(lambda: not self.forwarder.downstreams)
        await eventually(lambda: not any(pool.open for pool in self.forwarder.pools.values()))
        self.socket.close()
        self.tls_socket.close()
        if self.tls is not None:
            self.tls.close()
        # Whatever a test did, nothing may be left in flight.
        assert [pool.in_flight for pool in self.forwarder.pools.values() if pool.in_flight] == []
        assert self.forwarder.live == 0
        assert self.forwarder.budget.active == 0


def loopback(receive_buffer_bytes: int = 0) -> socket.socket:
    """A listening socket on a free port."""
    listening = socket.socket()
    if receive_buffer_bytes:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    listening.setblocking(False)
    return listening


def config(
    timeouts: Timeouts | None = None, limits: Limits | None = None, **sections: Any
) -> Config:
    """The defaults, but for what a test says."""
    settings = Config(timeouts=timeouts or Timeouts(), limits=limits or Limits())
    return replace(settings, **sections)


@asynccontextmanager
async def proxied(
    names: Sequence[str] = ("a",),
    *,
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
    retries: Retries | None = None,
    balancing: Balancing | None = None,
    trust: Trust | None = None,
    health: Health | None = None,
    tls: Tls | None = None,
    credentials: Credentials | None = None,
) -> AsyncIterator[tuple[Proxy, list[ScriptedBackend]]]:
    """A proxy that routes to backends of these names.

    At its end nothing may be in flight, and no connection open.
    """
    settings = config(
        timeouts,
        limits,
        retrying=retries or Retries(),
        balancing=balancing or Balancing(),
        trust=trust or Trust(),
        health=health or Health(),
        tls=tls or Tls(),
    )
    proxy = Proxy(settings, credentials)
    try:
        backends = [await proxy.backend(name) for name in names]
        proxy.route(*backends)
        yield proxy, backends
    finally:
        await proxy.close()
