"""The load against a server that breaks each rule on purpose: nothing may go unnoticed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from lbctl.verify import load as load_module
from lbctl.verify.answers import AnswerError, Kind
from lbctl.verify.load import Connection, Load, fetch, request
from tests.support.deadlines import eventually, scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Script = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]

LIST = b"127.0.0.1\n"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def reply(body: bytes = LIST, status: bytes = b"200 OK", *, length: int = -1) -> bytes:
    length = len(body) if length < 0 else length
    head = b"HTTP/1.1 %s\r\nX-Served-By: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (status, length)
    return head + body


async def well(writer: asyncio.StreamWriter, head: bytes) -> None:
    answer = reply()
    writer.write(answer[: -len(LIST)] if head.startswith(b"HEAD") else answer)


async def last(writer: asyncio.StreamWriter, head: bytes) -> None:
    """A good answer that ends its connection, as it says."""
    body = b"" if head.startswith(b"HEAD") else LIST
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n" + body)
    writer.close()


async def closing_later(writer: asyncio.StreamWriter, head: bytes) -> None:
    """A good answer, and then an end that nobody was told of, as of an idle connection."""
    await well(writer, head)
    writer.close()


async def error(writer: asyncio.StreamWriter, head: bytes) -> None:
    writer.write(reply(b"", b"500 Internal Server Error"))


async def short(writer: asyncio.StreamWriter, head: bytes) -> None:
    writer.write(reply(b"127.0", length=10))
    writer.close()


async def another_list(writer: asyncio.StreamWriter, head: bytes) -> None:
    body = b"127.0.0.1\n127.0.0.2\n"
    answer = reply(body)
    writer.write(answer[: -len(body)] if head.startswith(b"HEAD") else answer)


async def silent(writer: asyncio.StreamWriter, head: bytes) -> None:
    """Nothing."""


async def closing(writer: asyncio.StreamWriter, head: bytes) -> None:
    writer.close()


async def resetting(writer: asyncio.StreamWriter, head: bytes) -> None:
    end = writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


async def garbage(writer: asyncio.StreamWriter, head: bytes) -> None:
    writer.write(b"220 mail.example ESMTP\r\n\r\n")


class Server:
    """Answers every request as `script` says, which may change meanwhile."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.accepted = 0
        self.heads: list[bytes] = []
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                await self.script(writer, head)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        del self._serving[task]

    async def hang_up(self) -> None:
        for _ in range(10):  # what the loop has just accepted comes to `serve` first
            await asyncio.sleep(0)
        for writer in self._serving.values():
            writer.close()
        await asyncio.gather(*self._serving)


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncIterator[tuple[Server, int]]:
    server = Server(script)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        yield server, listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await server.hang_up()


def new_load(port: int, rate: float = 2_000) -> Load:
    load = Load("127.0.0.1", port, connections=4, rate=rate)
    load.expected = LIST
    return load


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (error, Kind.STATUS),
        (short, Kind.SHORT),
        (another_list, Kind.CONTENT),
        (closing, Kind.CLOSED),
        (resetting, Kind.RESET),
        (garbage, Kind.MALFORMED),
        (silent, Kind.LATE),
    ],
)
async def test_each_way_to_fail_is_noticed(
    script: Script, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "ANSWER_TIMEOUT_S", 0.1)
    async with serving(script) as (_, port), new_load(port) as load:
        await eventually(lambda: len(load.window.failures) >= 20)
        window = load.turn()
    kinds = {failure.kind for failure in window.failures}
    # HEAD has no body to be cut short: a length of 10 is just right there.
    assert kinds - {Kind.MALFORMED} <= {kind}, window.failures
    assert kind in kinds
    if script is not short:
        assert window.answered == 0


async def test_a_failure_names_who_answered() -> None:
    async with serving(error) as (_, port), new_load(port) as load:
        await eventually(lambda: load.window.failures)
        failure = load.turn().failures[0]
    assert (failure.backend, failure.detail) == ("127.0.0.1", "500")
    assert failure.began_s <= failure.ended_s


async def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with new_load(unused.getsockname()[1]) as load:
            await eventually(lambda: load.window.failures)
            assert {one.kind for one in load.turn().failures} == {Kind.REFUSED}


@pytest.mark.parametrize("script", [well, last])
async def test_what_is_no_failure(script: Script) -> None:
    async with serving(script) as (server, port), new_load(port, rate=100) as load:
        await eventually(lambda: load.window.answered >= 20)
        window = load.turn()
    assert window.failures == []
    if script is well:
        assert server.accepted == 4


async def test_nor_is_the_end_of_an_idle_connection() -> None:
    # 200 ms between two requests of a connection: its end is known by then.
    async with serving(closing_later) as (server, port), new_load(port, rate=20) as load:
        await eventually(lambda: load.window.answered >= 12)
        window = load.turn()
    assert window.failures == []
    assert server.accepted >= 12


async def test_one_that_ends_before_anything_is_asked_is_no_late_answer() -> None:
    """A process that is killed just when somebody has connected to it: the end comes before the
    request is written, and is not told a second time.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = await Connection.connect(*listening.getsockname())
        listening.accept()[0].close()
        await eventually(lambda: not connection.usable)
        with pytest.raises(AnswerError) as caught:
            async with asyncio.timeout(scaled(5)):
                await connection.ask(b"GET", request(b"GET", b"/", "x"))
    assert caught.value.kind is Kind.CLOSED


async def test_the_mix_is_of_pages_lists_and_heads() -> None:
    async with serving(well) as (server, port), new_load(port) as load:
        await eventually(lambda: load.window.answered >= 50)
    asked = {head.partition(b" HTTP")[0] for head in server.heads}
    assert asked == {b"GET /", b"GET /ips.txt", b"HEAD /ips.txt"}


async def test_a_request_is_never_sent_twice() -> None:
    async with serving(closing) as (server, port), new_load(port) as load:
        await eventually(lambda: len(load.window.failures) >= 20)
    assert len(server.heads) - load.window.requests <= 4  # those under way at the end


async def test_while_the_list_changes_any_list_will_do() -> None:
    async with serving(another_list) as (_, port), new_load(port) as load:
        load.expected = None
        await eventually(lambda: load.window.answered >= 20)
        assert load.turn().failures == []
        load.expected = LIST
        await eventually(lambda: load.window.failures)


async def test_the_pace_is_kept() -> None:
    now = asyncio.get_running_loop().time
    async with serving(well) as (_, port), new_load(port, rate=100) as load:
        await eventually(lambda: load.window.answered >= 20)
        began_s, before = now(), load.window.answered
        await eventually(lambda: load.window.answered >= before + 20)
        took_s = now() - began_s
    assert took_s > 0.1  # 20 at 100 a second; a load without a pace needs some 5 ms


async def test_fetch_is_one_question_on_a_connection_of_its_own() -> None:
    async with serving(well) as (server, port):
        for _ in range(2):
            assert (await fetch("127.0.0.1", port, b"/", 5)).body == LIST
        assert server.accepted == 2
        server.script = silent
        with pytest.raises(AnswerError) as caught:
            await fetch("127.0.0.1", port, b"/", 0.05)
        assert caught.value.kind is Kind.LATE


async def test_an_answer_to_nothing_costs_the_connection() -> None:
    async with serving(silent) as (server, port):

        async def twice(writer: asyncio.StreamWriter, head: bytes) -> None:
            writer.write(reply())
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(reply())

        server.script = twice
        connection = await Connection.connect("127.0.0.1", port)
        answer = await connection.ask(b"GET", request(b"GET", b"/", "x"))
        assert answer.status == 200
        await eventually(lambda: not connection.usable)
