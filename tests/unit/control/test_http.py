"""The real probe and the real list writer, against servers on loopback."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from lbctl.config import Health
from lbctl.control.http import HttpListWriter, HttpProbe
from lbctl.core.iplist import render_json, render_text
from lbctl.core.probing import BODY_LIMIT_BYTES
from lbctl.errors import OperationError
from lbctl.model import Backend, Member, Membership
from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

AT = datetime(2026, 11, 22, tzinfo=UTC)
TOKEN = "0123456789abcdef" * 4 + "." + "x" * 22
LIST = Membership(7, AT, (Member(Backend("a", "one", "10.0.0.1"), AT),))


def backend(port: int, admin_port: int = 1, path: str = "") -> Backend:
    return Backend("a", "one", "127.0.0.1", port, admin_port, probe_path=path)


@asynccontextmanager
async def raw_server(answer: bytes, *, keep_open: bool = False) -> AsyncIterator[int]:
    """Says the same to everybody; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if keep_open:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def application(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
async def probe() -> AsyncIterator[HttpProbe]:
    it = HttpProbe(Health(probe_timeout_s=scaled(0.3)))
    yield it
    await it.close()


@pytest.fixture
async def writer() -> AsyncIterator[HttpListWriter]:
    it = HttpListWriter(timeout_s=scaled(0.3), token=lambda backend: f"{TOKEN}{backend.id}")
    yield it
    await it.close()


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.0 200 OK\r\n\r\nok", ""),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "answered 503, not 200-299"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "answered 404, not 200-299"),
        (
            b"HTTP/1.1 302 F\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
            "answered 302, not 200-299",
        ),
        (b"", "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "answered something that is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "broke off its answer"),
    ],
)
async def test_what_a_probe_makes_of_an_answer(probe: HttpProbe, answer: bytes, error: str) -> None:
    async with raw_server(answer) as port:
        result = await probe(backend(port))
    assert (result.error, result.passed) == (error, not error)
    assert result.duration_s > 0


async def test_nobody_listens(probe: HttpProbe) -> None:
    assert (await probe(backend(closed_port()))).error == "connection refused"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"])
async def test_one_that_hangs_is_given_up(probe: HttpProbe, answer: bytes) -> None:
    async with raw_server(answer, keep_open=True) as port:
        result = await probe(backend(port))
    assert result.error == f"timed out after {scaled(0.3):g} s"


async def test_an_endless_answer_is_read_no_further_than_the_limit(probe: HttpProbe) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
    async with raw_server(head + b"x" * BODY_LIMIT_BYTES, keep_open=True) as port:
        assert (await probe(backend(port))).passed


async def test_every_probe_is_a_fresh_connection_to_the_path_as_given(probe: HttpProbe) -> None:
    peers, targets = set(), []

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        targets.append(request.raw_path)
        return web.Response()

    async with application(handler) as port:
        for _ in range(3):
            assert (await probe(backend(port, path="/a%2Fb?deep=1"))).passed
    assert len(peers) == 3
    assert targets == ["/a%2Fb?deep=1"] * 3


async def test_a_probe_asks_and_expects_what_the_settings_say() -> None:
    asked = []

    async def handler(request: web.Request) -> web.Response:
        asked.append((request.raw_path, request.headers["Host"], request.headers["X-Check"]))
        return web.Response(status=204 if request.path == "/empty" else 401, text="who are you?")

    probe = HttpProbe(
        Health(
            probe_timeout_s=scaled(1),
            probe_path="/status",
            probe_status="401, 204",
            probe_body="who",
            probe_headers="Host: site.example; X-Check: 1",
        )
    )
    try:
        async with application(handler) as port:
            assert (await probe(backend(port))).passed
            labelled = await probe(backend(port, path="/empty"))
    finally:
        await probe.close()
    assert asked == [("/status", "site.example", "1"), ("/empty", "site.example", "1")]
    assert labelled.error == 'answered 204 without "who" in its first 65536 bytes'


async def test_a_text_past_the_limit_is_not_found() -> None:
    probe = HttpProbe(Health(probe_timeout_s=scaled(1), probe_body="needle"))
    body = b"x" * BODY_LIMIT_BYTES + b"needle"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    try:
        async with raw_server(head + body) as port:
            assert "without" in (await probe(backend(port))).error
    finally:
        await probe.close()


async def test_a_write_puts_both_files_with_the_token_on_one_connection(
    writer: HttpListWriter,
) -> None:
    seen, peers = [], set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        authorization = request.headers["Authorization"]
        seen.append((request.method, request.path, authorization, await request.read()))
        return web.Response(status=201 if len(seen) == 1 else 204)

    async with application(handler) as port:
        await writer.write(backend(1, port), LIST)
    assert seen == [
        ("PUT", "/ips.json", f"Bearer {TOKEN}a", render_json(LIST)),
        ("PUT", "/ips.txt", f"Bearer {TOKEN}a", render_text(LIST)),
    ]
    assert len(peers) == 1


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            401,
            "it refused its token: mount the project's token volume at /run/lbctl, "
            "and use an image of this version",
        ),
        (404, "it answered 404 to PUT /ips.json"),
        (200, "it answered 200 to PUT /ips.json"),
        (507, "it answered 507 to PUT /ips.json"),
    ],
)
async def test_a_refused_write(writer: HttpListWriter, status: int, reason: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status)

    async with application(handler) as port:
        with pytest.raises(OperationError) as caught:
            await writer.write(backend(1, port), LIST)
    assert str(caught.value) == reason
    assert TOKEN not in str(caught.value)


async def test_a_write_to_nobody(writer: HttpListWriter) -> None:
    with pytest.raises(OperationError, match="connection refused"):
        await writer.write(backend(1, closed_port()), LIST)
    with pytest.raises(OperationError, match="connection refused"):
        await writer.holds(backend(closed_port()), LIST)


async def test_a_write_that_hangs(writer: HttpListWriter) -> None:
    async with raw_server(b"", keep_open=True) as port:
        with pytest.raises(OperationError, match="timed out after"):
            await writer.write(backend(1, port), LIST)


async def test_without_a_token_nothing_is_sent() -> None:
    def refuse(asked: Backend) -> str:
        raise OperationError(f"its token cannot be made known to {asked.name}")

    writer = HttpListWriter(1.0, refuse)
    try:
        with pytest.raises(OperationError) as caught:
            await writer.write(backend(1, closed_port()), LIST)
    finally:
        await writer.close()
    assert str(caught.value) == "its token cannot be made known to one"


@pytest.mark.parametrize(
    ("text", "document", "status", "holds"),
    [
        (render_text(LIST), render_json(LIST), 200, True),
        (b"", render_json(LIST), 200, False),
        (render_text(LIST) + b"10.0.0.2\n", render_json(LIST), 200, False),
        (render_text(LIST), b'{"generation": 0}', 200, False),
        (render_text(LIST), render_json(LIST), 404, False),
    ],
)
async def test_holds_compares_byte_by_byte(
    writer: HttpListWriter, text: bytes, document: bytes, status: int, holds: bool
) -> None:
    async def handler(request: web.Request) -> web.Response:
        body = text if request.path == "/ips.txt" else document
        return web.Response(body=body, status=status)

    async with application(handler) as port:
        assert await writer.holds(backend(port), LIST) is holds
