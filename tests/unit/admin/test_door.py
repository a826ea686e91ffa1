"""Clients of the admin port that never send a request, never read an answer, or are too many."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.admin.door import Bounds
from tests.support.deadlines import eventually, scaled
from tests.unit.admin.fakes import backend_status
from tests.unit.admin.test_api import TOKEN, Admin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from aiohttp import web

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
LONG_S = 60.0


class Client:
    """One connection to the admin port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def line(self) -> bytes:
        """One line of an answer; empty where the connection was ended instead."""
        return await self._until_end(self.reader.readline())

    async def rest(self) -> bytes:
        """What comes until the other side has ended it."""
        return await self._until_end(self.reader.read())

    async def _until_end(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        try:
            return await asyncio.wait_for(reading, scaled(5))
        except ConnectionError:
            return b""


@contextlib.asynccontextmanager
async def connected(admin: Admin, *sent: bytes) -> AsyncIterator[Client]:
    url = admin.session._base_url
    assert url is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(b"".join(sent))
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def server_of(admin: Admin) -> web.Server:
    runner = admin.server._runner
    assert runner is not None
    assert runner.server is not None
    return runner.server


def bounds(**changes: float) -> Bounds:
    return Bounds(**({"head_s": LONG_S, "idle_s": LONG_S, "write_s": LONG_S} | changes))  # type: ignore[arg-type]


@pytest.fixture
async def hasty() -> AsyncIterator[Admin]:
    async with Admin(bounds=bounds(head_s=0.1)).served() as admin:
        yield admin


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD, HEAD + b"X-A: 1"])
async def test_a_head_that_does_not_come(hasty: Admin, sent: bytes) -> None:
    async with connected(hasty, sent) as client:
        assert await client.rest() == b""


@pytest.mark.parametrize("more", [b"", b"GET", HEAD])
async def test_a_connection_at_rest_is_ended(more: bytes) -> None:
    async with (
        Admin(bounds=bounds(idle_s=0.1)).served() as admin,
        connected(admin, HEAD + b"\r\n" + more) as client,
    ):
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\r\n\r\nok\n")


async def test_a_second_head_that_comes_in_part(hasty: Admin) -> None:
    async with connected(hasty, HEAD + b"\r\n") as client:
        while await client.line() != b"\r\n":
            pass
        client.writer.write(HEAD)
        assert await client.rest() == b"ok\n"


async def test_a_body_that_does_not_come(hasty: Admin) -> None:
    head = b"POST /api/v1/scale HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 10\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
    async with connected(hasty, head, b'{"re') as client:
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert json.loads(body) == {"error": "the body did not come in time"}


async def test_a_change_may_take_longer_than_a_head(
    hasty: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    monkeypatch.setattr(hasty.scaler, "scale", lambda _: gate.wait())
    asking = asyncio.create_task(hasty.scale({"replicas": 2}))
    async with connected(hasty) as client:  # begun later, it is over before
        assert await client.rest() == b""
    gate.set()
    assert (await asking)[0] == 200


async def test_an_answer_that_nobody_reads() -> None:
    async with Admin(bounds=bounds(write_s=0.1)).served() as admin:
        admin.fleet.rows = [backend_status(f"b-{n}", reason="x" * 10_000) for n in range(2_000)]
        head = b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
        async with connected(admin, head) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            server = server_of(admin)
            await eventually(lambda: server.requests_count == 1)
            await eventually(lambda: not server.connections)


async def test_the_one_that_rests_longest_makes_room() -> None:
    async with contextlib.AsyncExitStack() as stack:
        admin = await stack.enter_async_context(Admin(bounds=bounds(connections=3)).served())
        first, second, third = [await stack.enter_async_context(connected(admin)) for _ in range(3)]
        first.writer.write(HEAD + b"\r\n")
        assert b"200" in await first.line()  # now it is the second that rests longest
        fourth = await stack.enter_async_context(connected(admin))
        assert await second.rest() == b""
        for client in (third, fourth):
            client.writer.write(HEAD + b"\r\n")
            assert b"200" in await client.line()


async def test_those_at_work_stay_and_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Admin(bounds=bounds(connections=2)).served() as admin:
        gate = asyncio.Event()
        monkeypatch.setattr(admin.scaler, "scale", lambda _: gate.wait())
        asking = [asyncio.create_task(admin.scale({"replicas": 2})) for _ in range(2)]
        await eventually(lambda: server_of(admin).requests_count == 2)
        async with connected(admin, HEAD, b"\r\n") as client:
            assert await client.line() == b""
        gate.set()
        answers = await asyncio.gather(*asking)
    assert [status for status, _ in answers] == [200, 200]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(1_000)) + b"\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_told_so_in_json(sent: bytes, hasty: Admin) -> None:
    async with connected(hasty, sent) as client:
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert b" 400 Bad Request" in head
    assert b"nosniff" in head
    assert json.loads(body) == {"error": "this is no HTTP request"}


async def test_a_small_body_does_not_become_a_big_one(hasty: Admin) -> None:
    status, body = await hasty.scale(b"\x1f\x8b", **{"Content-Encoding": "gzip"})
    assert (status, body["error"]) == (415, "the body must not be compressed")
