"""The engine's answers, honest and hostile, in lbctl's words."""

from __future__ import annotations

import asyncio
import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from lbctl.errors import EngineError
from lbctl.runtime.engine import Engine, _split_ref
from lbctl.runtime.transport import EngineRefusedError
from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.unit.runtime.fake_engine import FakeEngine


async def test_what_a_container_uses_is_asked_once(fake: FakeEngine, engine: Engine) -> None:
    used = {"cpu_stats": {"cpu_usage": {"total_usage": 7}}}
    fake.on("GET", "/containers/abc/stats", used)
    assert await engine.stats("abc") == used
    assert fake.asked[-1].query == {"stream": "false", "one-shot": "true"}


async def test_an_engine_that_keeps_silent(
    fake: FakeEngine, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lbctl.runtime.engine.ANSWER_TIMEOUT_S", 0.05)
    gone = asyncio.Event()

    async def say_nothing(_: web.Request) -> web.StreamResponse:
        await gone.wait()
        return web.Response()

    fake.on("POST", "/containers/one/stop", say_nothing)
    with pytest.raises(EngineError, match="did not answer in time"):
        await engine.stop("one", 0.01)
    gone.set()


@pytest.mark.parametrize(
    ("status", "message", "fine"),
    [
        (404, "No such container", True),
        (409, "removal of container x is already in progress", True),
        (409, "You cannot remove it", False),
        (500, "driver broke", False),
    ],
)
async def test_remove_what_is_gone(
    fake: FakeEngine, engine: Engine, status: int, message: str, fine: bool
) -> None:
    fake.on("DELETE", "/containers/one", {"message": message}, status=status)
    if fine:
        await engine.remove("one")
    else:
        with pytest.raises(EngineRefusedError):
            await engine.remove("one")


async def test_absent_is_none(engine: Engine) -> None:
    assert await engine.network("one") is None
    assert await engine.volume("one") is None
    assert await engine.image("one:1") is None


async def test_a_network_is_found_by_its_whole_name_only(fake: FakeEngine, engine: Engine) -> None:
    # Asked for "ab", an engine gives the network whose id starts so.
    fake.on("GET", "/networks/ab", {"Name": "bridge", "Id": "abcdef"})
    assert await engine.network("ab") is None


async def test_an_image_reference_stays_one_path(fake: FakeEngine, engine: Engine) -> None:
    fake.on("GET", "/images/reg:5000/a/b:1/json", {"Id": "x"})
    assert await engine.image("reg:5000/a/b:1") == {"Id": "x"}
    await engine.image("a?b#c/../d")
    assert fake.asked[-1].raw_path == "/v1.41/images/a%3Fb%23c/../d/json"


@pytest.mark.parametrize(
    ("ref", "parts"),
    [
        ("alpine", ("alpine", "latest")),
        ("alpine:3.10", ("alpine", "3.10")),
        ("reg:5000/a", ("reg:5000/a", "latest")),
        ("reg:5000/a:1", ("reg:5000/a", "1")),
        ("a@sha256:ff", ("a", "sha256:ff")),
    ],
)
def test_references(ref: str, parts: tuple[str, str]) -> None:
    assert _split_ref(ref) == parts


async def collect_events(engine: Engine) -> list[object]:
    async with engine.events({}, "0") as events:
        return [event async for event in events]


async def test_events_in_any_pieces(fake: FakeEngine, engine: Engine) -> None:
    whole = b'{"a": 1}\n\n{"b": "\xc3\xa9"}\n{"c": 3}'
    for size in (1, 2, 7, len(whole)):
        pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
        fake.stream("GET", "/events", *pieces)
        assert await collect_events(engine) == [{"a": 1}, {"b": "é"}, {"c": 3}]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"\xff\n", b'{"a": \n'])
async def test_events_that_are_garbage(fake: FakeEngine, engine: Engine, line: bytes) -> None:
    fake.stream("GET", "/events", b'{"a": 1}\n', line)
    with pytest.raises(EngineError, match="garbage"):
        await collect_events(engine)


async def test_an_event_without_end(fake: FakeEngine, engine: Engine) -> None:
    fake.stream("GET", "/events", *[b"x" * (1 << 20)] * 6)
    with pytest.raises(EngineError, match="line without end"):
        await collect_events(engine)


async def test_events_that_break_off(fake: FakeEngine, engine: Engine) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"a": 1}\n')
        assert request.transport is not None
        request.transport.abort()
        return response

    fake.on("GET", "/events", break_off)
    with pytest.raises(EngineError):
        await collect_events(engine)


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


async def log_of(engine: Engine) -> list[bytes]:
    return [line async for line in engine.logs("one", follow=False, tail=5)]


async def test_logs_of_two_streams_in_any_pieces(fake: FakeEngine, engine: Engine) -> None:
    fake.on("GET", "/containers/one/json", {"Config": {"Tty": False}})
    whole = b"".join(
        [frame(1, b"a\nb"), frame(2, b"error\n"), frame(1, b"c\n\nd"), frame(2, b"tail")]
    )
    for size in (1, 3, 8, len(whole)):
        pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
        fake.stream("GET", "/containers/one/logs", *pieces)
        assert await log_of(engine) == [b"a", b"error", b"bc", b"", b"d", b"tail"]


async def test_logs_cut_off_in_a_frame(fake: FakeEngine, engine: Engine) -> None:
    fake.on("GET", "/containers/one/json", {"Config": {"Tty": False}})
    fake.stream("GET", "/containers/one/logs", frame(1, b"whole\n") + frame(1, b"half")[:-2])
    assert await log_of(engine) == [b"whole"]


async def test_logs_of_a_terminal(fake: FakeEngine, engine: Engine) -> None:
    fake.on("GET", "/containers/one/json", {"Config": {"Tty": True}})
    fake.stream("GET", "/containers/one/logs", b"a\r\nb\r\n")
    assert await log_of(engine) == [b"a\r", b"b\r"]


def tar_of(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type = kind
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


async def test_read_file(fake: FakeEngine, engine: Engine) -> None:
    fake.on("GET", "/containers/one/archive", tar_of("token", b"secret"))
    assert await engine.read_file("one", "/var/token") == b"secret"
    assert fake.asked[-1].query == {"path": "/var/token"}


@pytest.mark.parametrize(
    "archive",
    [b"", b"not a tar", tar_of("d", b"", tarfile.DIRTYPE), tar_of("l", b"", tarfile.SYMTYPE)],
)
async def test_read_file_that_is_none(fake: FakeEngine, engine: Engine, archive: bytes) -> None:
    fake.on("GET", "/containers/one/archive", archive)
    with pytest.raises(EngineError, match="read /x of one"):
        await engine.read_file("one", "/x")


async def test_read_file_that_is_too_large(fake: FakeEngine, engine: Engine) -> None:
    fake.on("GET", "/containers/one/archive", tar_of("f", bytes(2 << 20)))
    with pytest.raises(EngineError, match="larger than 1 MiB"):
        await engine.read_file("one", "/x")


@pytest.mark.parametrize(
    ("make", "made", "removed"),
    [
        ("/containers/create", {"Id": "c1"}, "/containers/c1"),
        ("/networks/create", {"Id": "n1"}, "/networks/n1"),
        ("/volumes/create", {"Name": "v1"}, "/volumes/v1"),
    ],
)
async def test_what_is_made_for_a_cancelled_caller_is_removed(
    fake: FakeEngine, engine: Engine, make: str, made: dict[str, str], removed: str
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slowly(_: web.Request) -> web.StreamResponse:
        asked.set()
        await answer.wait()
        return web.json_response(made, status=201)

    fake.on("POST", make, slowly)
    fake.on("DELETE", removed, b"", status=204)
    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "/containers/create": lambda: engine.create("c", {}),
        "/networks/create": lambda: engine.create_network("n", {}),
        "/volumes/create": lambda: engine.create_volume("v1", {}),
    }
    task = asyncio.create_task(calls[make]())
    async with asyncio.timeout(scaled(5)):
        await asked.wait()
        task.cancel()
        answer.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (fake.asked[-1].method, fake.asked[-1].path) == ("DELETE", f"/v1.41{removed}")
