"""The docker runtime against a fake engine: what a real one cannot be made to do."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from lbctl.errors import EngineError, EngineUnavailableError, ImageError
from lbctl.model import Release
from lbctl.ports import Change
from lbctl.runtime.docker import DockerRuntime, _signal

if TYPE_CHECKING:
    from lbctl.runtime.engine import Engine
    from tests.unit.runtime.fake_engine import FakeEngine

OURS = {"lbctl.project": "shop", "lbctl.role": "backend"}


@pytest.fixture
def runtime(engine: Engine) -> DockerRuntime:
    return DockerRuntime(engine, "shop")


def container_event(action: str, **attributes: str) -> dict[str, Any]:
    actor = {"ID": "c1", "Attributes": OURS | attributes}
    return {"Type": "container", "Action": action, "Actor": actor}


def network_event(action: str, network: str, container: str = "c1") -> dict[str, Any]:
    actor = {"ID": "n1", "Attributes": {"name": network, "container": container}}
    return {"Type": "network", "Action": action, "Actor": actor}


def stream(fake: FakeEngine, *events: Any) -> None:
    fake.stream("GET", "/events", *(json.dumps(event).encode() + b"\n" for event in events))


async def changes(runtime: DockerRuntime) -> list[Change]:
    """What comes after "subscribed", until the stream ends."""
    first, *rest = [change async for change in runtime.watch()]
    assert first == Change("subscribed")
    return rest


async def test_what_was_never_started_is_removed_before_anything_else(
    fake: FakeEngine, runtime: DockerRuntime
) -> None:
    own = {"Id": "own", "Labels": OURS | {"lbctl.revision": "2"}}
    stranger = {"Id": "stranger", "Labels": OURS}
    fake.on("GET", "/containers/json", [own, stranger])
    fake.on("DELETE", "/containers/own", b"", status=204)
    await runtime.recover()
    listed, *removed = fake.asked[-2:]
    assert json.loads(listed.query["filters"])["status"] == ["created"]
    assert [request.path.rpartition("/")[2] for request in removed] == ["own"]


async def test_watch_asks_for_everything_since_just_before(
    fake: FakeEngine, runtime: DockerRuntime
) -> None:
    stream(fake)
    before = time.time()
    assert await changes(runtime) == []
    query = fake.asked[-1].query
    assert before <= float(query["since"]) <= time.time()
    filters = json.loads(query["filters"])
    assert filters["type"] == ["container", "network"]
    assert "label" not in filters
    assert not [event for event in filters["event"] if event.startswith("exec")]


async def test_watch_says_nothing_before_the_engine_answers(
    fake: FakeEngine, runtime: DockerRuntime
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slowly(request: web.Request) -> web.StreamResponse:
        asked.set()
        await answer.wait()
        response = web.StreamResponse()
        await response.prepare(request)
        return response

    fake.on("GET", "/events", slowly)
    first = asyncio.ensure_future(anext(runtime.watch()))
    await asked.wait()
    await asyncio.sleep(0)
    assert not first.done()
    answer.set()
    assert await first == Change("subscribed")


async def test_only_this_project_s_events_count(fake: FakeEngine, runtime: DockerRuntime) -> None:
    stream(
        fake,
        container_event("start"),
        container_event("start", **{"lbctl.project": "shop2"}),
        container_event("start", **{"lbctl.role": "lb"}),
        container_event("exec_create: wget -q http://127.0.0.1"),
        container_event("exec_start: true"),
        container_event("exec_die"),
        container_event("health_status: unhealthy"),
        network_event("connect", "shop"),
        network_event("connect", "shop2"),
        network_event("disconnect", "shop", "c2"),
    )
    assert await changes(runtime) == [
        Change("start", "c1"),
        Change("health_status", "c1"),
        Change("connect", "c1"),
        Change("disconnect", "c2"),
    ]


@pytest.mark.parametrize(
    ("signal", "stop_signal", "leaving"),
    [
        ("15", "SIGQUIT", True),
        ("3", "SIGQUIT", True),
        ("2", "SIGQUIT", True),
        ("9", "SIGQUIT", True),
        ("SIGTERM", "", True),
        ("TERM", None, True),
        ("1", "SIGQUIT", False),
        ("10", "SIGQUIT", False),
        ("28", "", False),
        ("28", "SIGWINCH", True),
        ("10", "10", True),
        ("37", "RTMIN+3", False),
    ],
)
async def test_which_signals_mean_leaving(
    fake: FakeEngine, runtime: DockerRuntime, signal: str, stop_signal: str | None, leaving: bool
) -> None:
    fake.on("GET", "/containers/c1/json", {"Config": {"StopSignal": stop_signal}})
    stream(fake, container_event("kill", signal=signal))
    assert await changes(runtime) == [Change("kill", "c1", leaving=leaving)]


async def test_a_container_that_cannot_be_asked_is_not_leaving(
    fake: FakeEngine, runtime: DockerRuntime
) -> None:
    stream(fake, container_event("kill", signal="28"), container_event("die"))
    assert await changes(runtime) == [Change("kill", "c1"), Change("die", "c1")]


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"Type": "container", "Action": "die"},
        {"Type": "container", "Action": "die", "Actor": None},
        {"Type": "container", "Action": "die", "Actor": {"ID": "c1", "Attributes": [1]}},
        {"Type": "container", "Action": "kill", "Actor": {"ID": "c1", "Attributes": OURS}},
    ],
)
async def test_an_event_of_no_known_shape_ends_the_watch(
    fake: FakeEngine, runtime: DockerRuntime, event: dict[str, Any]
) -> None:
    stream(fake, event)
    with pytest.raises(EngineError, match="garbage"):
        await changes(runtime)


async def test_the_list_is_one_request(fake: FakeEngine, runtime: DockerRuntime) -> None:
    one = {"Labels": OURS, "State": "running", "Status": "Up 1 second", "NetworkSettings": {}}
    fake.on(
        "GET",
        "/containers/json",
        [one | {"Id": f"c{n}", "Names": [f"/shop-backend-{n}"]} for n in range(50)],
    )
    before = len(fake.asked)
    assert len(await runtime.list()) == 50
    (request,) = fake.asked[before:]
    assert request.query["all"] == "1"
    assert json.loads(request.query["filters"]) == {
        "label": ["lbctl.project=shop", "lbctl.role=backend"]
    }


async def test_at_most_eight_are_created_at_a_time(
    fake: FakeEngine, runtime: DockerRuntime
) -> None:
    fake.on("GET", "/containers/json", [])
    now = most = 0
    full = asyncio.Event()

    async def create(request: web.Request) -> web.StreamResponse:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 8:
            full.set()
        await full.wait()
        now -= 1
        name = request.query["name"]
        fake.on("POST", f"/containers/{name}/start", b"", status=204)
        return web.json_response({"Id": name}, status=201)

    fake.on("POST", "/containers/create", create)
    ids = await runtime.start(20, Release(image="lbctl-nginx:1"))
    assert ids == [f"shop-backend-{number}" for number in range(1, 21)]
    assert most == 8


def test_signals() -> None:
    assert [_signal(text) for text in ("15", "TERM", "SIGTERM", "term", "nonsense", "")] == [
        15, 15, 15, 15, 0, 0,
    ]  # fmt: skip


async def test_where_the_ports_of_a_container_are_published(
    fake: FakeEngine, runtime: DockerRuntime
) -> None:
    ports = {
        "8080/tcp": [{"HostIp": "", "HostPort": "80"}, {"HostIp": "::", "HostPort": "80"}],
        "9900/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9901"}],
        "1/tcp": None,
    }
    fake.on("GET", "/containers/lb/json", {"NetworkSettings": {"Ports": ports}})
    assert await runtime.published("lb") == {
        "8080/tcp": "0.0.0.0:80",
        "9900/tcp": "127.0.0.1:9901",
    }


async def test_a_container_that_the_engine_does_not_know_publishes_nothing(
    fake: FakeEngine, runtime: DockerRuntime
) -> None:
    fake.on("GET", "/containers/lb/json", {"message": "No such container"}, status=404)
    assert await runtime.published("lb") == {}


async def test_while_there_is_no_engine_nobody_knows_what_is_published(
    runtime: DockerRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: str) -> dict[str, Any]:
        raise EngineUnavailableError("there is no engine")

    monkeypatch.setattr(runtime._engine, "inspect", away)
    with pytest.raises(EngineUnavailableError):
        await runtime.published("lb")


async def test_what_a_container_said_last(fake: FakeEngine, runtime: DockerRuntime) -> None:
    fake.on("GET", "/containers/c1/json", {"Config": {"Tty": True}})
    fake.stream("GET", "/containers/c1/logs", b"no such user\r\n\x1b[31mbye\r\n")
    assert await runtime.last_lines("c1", 5) == ["no such user", "?[31mbye"]
    assert fake.asked[-1].query["tail"] == "5"


async def test_a_container_that_is_gone_said_nothing(
    fake: FakeEngine, runtime: DockerRuntime
) -> None:
    fake.on("GET", "/containers/c1/json", {"message": "No such container"}, status=404)
    assert await runtime.last_lines("c1", 5) == []


async def test_an_image_that_is_not_there_is_told_from_other_refusals(
    fake: FakeEngine, runtime: DockerRuntime
) -> None:
    fake.on("GET", "/containers/json", [])
    fake.on("POST", "/containers/create", {"message": "No such image: web:2"}, status=404)
    with pytest.raises(ImageError, match="No such image: web:2"):
        await runtime.start(3, Release(image="web:2"))
    fake.on("POST", "/containers/create", {"message": "no space left"}, status=500)
    with pytest.raises(EngineError, match="no space left"):
        await runtime.start(3, Release(image="web:2"))
