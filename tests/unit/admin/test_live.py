"""`GET /api/v1/live`: what a listener is told, and what one that does not listen costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.admin.door import Bounds
from lbctl.admin.series import MEASURED, SPAN
from lbctl.model import State
from tests.support.deadlines import eventually, scaled
from tests.unit.admin.fakes import backend_status, traffic
from tests.unit.admin.test_api import Admin
from tests.unit.core.test_changes import applied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

PATH = "/api/v1/live"
Event = tuple[str, dict[str, Any]]


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    async with Admin().served() as served:
        _by_hand(served)
        yield served


def _by_hand(admin: Admin) -> None:
    """Beats come from the test alone."""
    assert admin.server._sampler is not None
    admin.server._sampler.cancel()


def _beat(admin: Admin) -> None:
    admin.server._overview.sample()
    admin.server._live.beat()


class Listener:
    """What one client of the stream hears."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def hear(self) -> Event:
        """The next event, past comments and the word about coming again."""
        async with asyncio.timeout(scaled(5)):
            while True:
                block = (await self._answer.content.readuntil(b"\n\n")).decode()
                fields = dict(line.partition(": ")[::2] for line in block.strip().split("\n"))
                if "event" in fields:
                    return fields["event"], json.loads(fields["data"])


@contextlib.asynccontextmanager
async def listening(admin: Admin) -> AsyncIterator[Listener]:
    async with admin.session.get(PATH) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        assert answer.headers["X-Request-Id"]
        yield Listener(answer)


async def test_everything_first_and_then_what_changes(admin: Admin) -> None:
    _beat(admin)
    async with listening(admin) as listener:
        event, whole = await listener.hear()
        assert event == "status"
        assert whole["summary"]["project"] == "shop"
        assert whole["summary"]["generation"] == 7
        assert (whole["summary"]["in_rotation"], whole["summary"]["known"]) == (1, 2)
        assert [row["name"] for row in whole["backends"]] == ["b-1", "b-2"]
        assert [one["name"] for one in whole["processes"]] == ["supervisor", "worker-1"]
        assert set(whole["series"]) == set(MEASURED)
        assert {len(column) for column in whole["series"].values()} == {SPAN}

        admin.fleet.generation = 8
        admin.fleet.rows[1] = backend_status("b-2", state=State.UP)
        _beat(admin)
        event, change = await listener.hear()
        assert event == "change"
        assert change["summary"] == {"generation": 8, "in_rotation": 2}
        [row] = change["backends"]
        assert row.items() >= {"id": "id-b-2", "state": "up", "reason": ""}.items()
        assert not {"name", "ip", "since", "last_check"} & set(row)
        assert set(change) == {"now", "summary", "backends"}

        _beat(admin)
        assert set((await listener.hear())[1]) == {"now"}

        admin.fleet.rows = admin.fleet.rows[1:]
        _beat(admin)
        assert (await listener.hear())[1]["removed"] == ["id-b-1"]


async def test_changes_add_up_to_what_status_says(admin: Admin) -> None:
    async with listening(admin) as listener:
        _, view = await listener.hear()
        for count in range(5):
            admin.traffic.backends["id-b-1"] = traffic("b-1", ok=count, in_flight=count)
            admin.fleet.rows.append(backend_status(f"c-{count}"))
            _beat(admin)
            _, change = await listener.hear()
            view = applied(view, change)
    _, body = await admin.ask("GET", "/api/v1/status")
    told = {row["id"]: row for row in view["backends"]}
    assert set(told) == {row["id"] for row in body["backends"]}
    assert told["id-b-1"]["in_flight"] == 4


async def test_who_comes_later_starts_from_the_same_beat(admin: Admin) -> None:
    async with listening(admin) as first:
        await first.hear()
        admin.fleet.generation = 8
        _beat(admin)
        await first.hear()
        admin.fleet.generation = 9  # told to nobody before the next beat
        async with listening(admin) as second:
            _, whole = await second.hear()
            assert whole["summary"]["generation"] == 8
            _beat(admin)
            changes = [(await one.hear())[1] for one in (first, second)]
            assert changes[0] == changes[1]
            assert changes[0]["summary"]["generation"] == 9


async def test_measured_values_are_told_with_every_beat(admin: Admin) -> None:
    _beat(admin)
    async with listening(admin) as listener:
        await listener.hear()
        admin.traffic.backends["id-b-1"] = traffic("b-1", ok=100)
        _beat(admin)
        _, change = await listener.hear()
        assert change["summary"]["requests_per_second"] > 0
        assert change["summary"]["error_ratio"] == 0
    async with listening(admin) as late:
        _, whole = await late.hear()
        assert whole["series"]["requests_per_second"][-1] > 0
        assert whole["series"]["requests_per_second"][0] is None


async def test_nothing_is_made_while_nobody_listens(admin: Admin, monkeypatch: Any) -> None:
    asked = 0
    view = admin.server._live._view

    def counted() -> Any:
        nonlocal asked
        asked += 1
        return view()

    monkeypatch.setattr(admin.server._live, "_view", counted)
    for _ in range(3):
        _beat(admin)
    assert asked == 0
    async with listening(admin) as one, listening(admin) as other:
        await one.hear()
        await other.hear()
        assert asked == 1
        _beat(admin)
        assert await one.hear() == await other.hear()
        assert asked == 2  # once, for both
    await eventually(lambda: not admin.server._live._listeners)
    _beat(admin)
    assert asked == 2


async def test_who_misses_a_beat_is_told_everything(admin: Admin) -> None:
    """Nothing is taken off the wire between the beats: the first change still fits."""
    async with listening(admin) as listener:
        await listener.hear()
        for generation in (8, 9, 10):  # without a turn of the loop for the listener's task
            admin.fleet.generation = generation
            _beat(admin)
        event, whole = await listener.hear()
        assert (event, whole["summary"]["generation"]) == ("status", 10)
        admin.fleet.generation = 11
        _beat(admin)
        event, change = await listener.hear()
        assert (event, change["summary"]) == ("change", {"generation": 11})


async def test_names_are_json_and_no_event_of_their_own(admin: Admin) -> None:
    hostile = 'x\n\nevent: change\ndata: {"forged": 1}\n\n\u2028<script>'
    admin.fleet.rows = [backend_status(hostile)]
    async with listening(admin) as listener:
        event, whole = await listener.hear()
        assert event == "status"
        assert whole["backends"][0]["name"] == hostile
        _beat(admin)
        assert set((await listener.hear())[1]) <= {"now", "summary"}


async def test_a_hundred_listeners_of_whom_none_reads(admin: Admin) -> None:
    """What waits for them is shared; each costs what its own buffers hold."""
    admin.fleet.rows = [backend_status(f"backend-{n}", reason="r" * 200) for n in range(500)]
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", _port(admin)))
            client.sendall(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await eventually(lambda: len(admin.server._live._listeners) == 100)
        tracemalloc.start()
        for beat in range(30):
            admin.fleet.rows = [
                backend_status(f"backend-{n}", reason=f"{beat} " * 100) for n in range(500)
            ]
            _beat(admin)
            await asyncio.sleep(0)
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(f"100 listeners that read nothing, 500 backends, 30 beats: {grown / 2**20:.1f} MiB")
        assert not any(one._is_current for one in admin.server._live._listeners)
        assert grown < 40 * 2**20
        async with listening(admin) as listener:  # one that reads is none the worse for it
            assert (await listener.hear())[0] == "status"
            _beat(admin)
            assert (await listener.hear())[0] == "change"


def _port(admin: Admin) -> int:
    url = admin.session._base_url
    assert url is not None
    assert url.port is not None
    return url.port


async def test_no_more_than_two_fifths_of_the_connections_watch() -> None:
    async with (
        Admin(bounds=Bounds(connections=10)).served() as admin,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(4):
            await stack.enter_async_context(listening(admin))
        status, body = await admin.ask("GET", PATH)
        assert (status, list(body)) == (503, ["error"])
        assert (await admin.ask("GET", "/api/v1/status"))[0] == 200


async def test_the_end_of_the_server_ends_the_stream() -> None:
    admin = Admin()
    async with admin.served():
        answer = await admin.session.get(PATH)
        await Listener(answer).hear()
        began = asyncio.get_running_loop().time()
        await admin.server.close()
        assert asyncio.get_running_loop().time() - began < scaled(1)
        async with asyncio.timeout(scaled(5)):
            await answer.content.read()
        answer.close()


async def test_the_sampler_beats() -> None:
    async with Admin().served() as admin, listening(admin) as listener:
        assert (await listener.hear())[0] == "status"
        assert (await listener.hear())[0] == "change"
