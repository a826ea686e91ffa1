"""Streams of events as their clients see them, and clients that do not read or are too many."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from lbctl.admin.door import Bounds, Connection, Door
from lbctl.admin.sse import Stream, Streams, encode
from tests.support.deadlines import eventually, scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LONG_S = 60.0


@web.middleware
async def _bracketed(request: web.Request, handler: Any) -> web.StreamResponse:
    connection = request.protocol
    assert isinstance(connection, Connection)
    connection.begins()
    try:
        response: web.StreamResponse = await handler(request)
    finally:
        connection.ends()
    return response


class Server:
    """An admin port with nothing but a stream, of which a test says what it sends."""

    def __init__(self, streams: Streams, serve: Callable[[Stream], Awaitable[None]]) -> None:
        self.streams = streams
        self.served: list[Stream] = []
        self.ended = 0
        self._serve = serve
        self.session: aiohttp.ClientSession

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        async with self.streams.open(request) as stream:
            self.served.append(stream)
            await self._serve(stream)
        self.ended += 1
        return stream.response

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        app = web.Application(middlewares=[_bracketed])
        app.add_routes([web.get("/", self._handle)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        await Door(runner, listener, Bounds(), {}).start()
        timeout = aiohttp.ClientTimeout(total=scaled(20))
        base = f"http://127.0.0.1:{self.port}"
        async with aiohttp.ClientSession(base, timeout=timeout) as self.session:
            try:
                yield self
            finally:
                self.streams.close()
                await runner.cleanup()


def streams(**changes: Any) -> Streams:
    return Streams(**({"limit": 8, "heartbeat_s": LONG_S, "write_s": LONG_S} | changes))


async def _rest(stream: Stream) -> None:
    while stream.alive:
        await stream.rest()


async def test_events_arrive_one_by_one_and_the_answer_ends() -> None:
    gate = asyncio.Event()

    async def serve(stream: Stream) -> None:
        await stream.send(encode('{"a": 1}', event="backend", id_="7"))
        await gate.wait()
        await stream.send(encode("two\nlines"))

    async with Server(streams(), serve).running() as server, server.session.get("/") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        assert await answer.content.readuntil(b"\n\n") == b"retry: 1000\n\n"
        first = await answer.content.readuntil(b"\n\n")
        assert first == b'id: 7\nevent: backend\ndata: {"a": 1}\n\n'
        gate.set()
        assert await answer.content.read() == b"data: two\ndata: lines\n\n"


async def test_whoever_rests_is_woken_and_a_time_may_pass() -> None:
    woken: list[bool] = []

    async def serve(stream: Stream) -> None:
        woken.append(await stream.rest(0.01))
        asyncio.get_running_loop().call_later(0.01, stream.wake)
        woken.append(await stream.rest())
        stream.wake()
        woken.append(await stream.rest(LONG_S))

    async with Server(streams(), serve).running() as server, server.session.get("/") as answer:
        await answer.read()
    assert woken == [False, True, True]


async def test_silence_is_broken_by_a_comment() -> None:
    async with (
        Server(streams(heartbeat_s=0.02), _rest).running() as server,
        server.session.get("/") as answer,
    ):
        await answer.content.readuntil(b"\n\n")
        for _ in range(3):
            assert await answer.content.readuntil(b"\n\n") == b": still here\n\n"


async def test_a_client_that_goes_is_missed_at_once() -> None:
    async with Server(streams(), _rest).running() as server:
        async with server.session.get("/") as answer:
            await answer.content.readuntil(b"\n\n")
            assert len(server.streams) == 1
            answer.close()
        await eventually(lambda: server.ended == 1)
        assert len(server.streams) == 0


async def test_a_client_that_does_not_read_is_dropped() -> None:
    async def flood(stream: Stream) -> None:
        while stream.alive:
            await stream.send(encode("x" * 10_000))
            sent.append(10_000)

    sent: list[int] = []
    async with Server(streams(write_s=0.2), flood).running() as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: server.ended == 1)
        assert len(server.streams) == 0
        assert sum(sent) < 30_000_000  # what the kernel takes of both sides
        writer.close()


async def test_a_client_that_reads_slowly_gets_all_of_a_long_message() -> None:
    block, write_s = b"x" * 6_000_000, scaled(0.5)
    took: list[float] = []

    async def serve(stream: Stream) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        await stream.send(block)
        took.append(clock() - began)

    async with Server(streams(write_s=write_s), serve).running() as server:
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        own.connect(("127.0.0.1", server.port))
        reader, writer = await asyncio.open_connection(sock=own, limit=32_768)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        count = 0
        while data := await reader.read(65_536):
            count += data.count(b"x")
            await asyncio.sleep(scaled(0.01))  # a slow reader is what this is about
        writer.close()
    assert count >= len(block)
    assert took[0] > write_s  # or it was not slow


async def test_a_client_that_vanished_is_missed_by_the_kernel() -> None:
    own: list[int] = []

    async def serve(stream: Stream) -> None:
        transport = stream._connection.transport
        assert transport is not None
        end = transport.get_extra_info("socket")
        own.append(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    async with Server(streams(), serve).running() as server, server.session.get("/") as answer:
        await answer.read()
    assert own == [30_000]


async def test_one_too_many_is_told_so() -> None:
    async with (
        Server(streams(limit=1), _rest).running() as server,
        server.session.get("/") as first,
    ):
        await first.content.readuntil(b"\n\n")
        async with server.session.get("/") as second:
            assert second.status == 503
        server.streams.close()
        assert await first.content.read() == b""


async def test_the_end_of_the_server_is_the_end_of_the_answer() -> None:
    async with Server(streams(), _rest).running() as server:
        async with server.session.get("/") as answer:
            await answer.content.readuntil(b"\n\n")
            server.streams.close()
            assert await answer.content.read() == b""  # not broken off: the last chunk came
        async with server.session.get("/") as late:
            assert late.status == 503


async def test_a_head_is_no_stream() -> None:
    async with Server(streams(), _rest).running() as server, server.session.head("/") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        await eventually(lambda: server.ended == 1)


@pytest.mark.parametrize("bad", ["a\nb", "a\r", "\0"])
def test_a_name_is_one_line(bad: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        encode("x", event=bad)
    with pytest.raises(ValueError, match="one line"):
        encode("x", id_=bad)


@given(st.text())
def test_no_data_makes_an_event_of_its_own(data: str) -> None:
    block = encode(data).decode()
    assert block.endswith("\n\n")
    assert "\n\n" not in block[:-1]
    assert "\r" not in block
    assert all(line.startswith("data: ") for line in block[:-2].split("\n"))
