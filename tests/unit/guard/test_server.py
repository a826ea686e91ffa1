"""The guard between what an lb asks and an engine that says what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web

from lbctl.errors import EngineError, EngineUnavailableError, ImageError, OperationError
from lbctl.guard import connections as connections_module
from lbctl.guard import server as server_module
from lbctl.guard.server import GuardServer
from lbctl.model import GuardCounts, Release
from lbctl.ports import Change
from lbctl.runtime import guarded as guarded_module
from lbctl.runtime.containers import Names, backend_body
from lbctl.runtime.guarded import GuardedEngine, GuardedRuntime
from lbctl.runtime.transport import EngineRefusedError
from tests.support.deadlines import eventually, scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.unit.runtime.fake_engine import FakeEngine

NAMES = Names("shop")
TOKEN = "ab" * 32
IMAGE = "lbctl-nginx:1"
ONE, TWO, POD, STRANGER = ("1" * 64, "2" * 64, "3" * 64, "4" * 64)
SECRETS = ("S3CRET", "/host/path", "10.9.9.9", "elsewhere")


def facts_of(id_: str, role: str = "backend", project: str = "shop") -> dict[str, Any]:
    """An inspection, with much that is nobody's business."""
    return {
        "Id": id_,
        "Name": "/elsewhere",
        "Args": ["S3CRET"],
        "State": {"Running": True, "Health": {"FailingStreak": 2, "Log": [{"Output": "S3CRET"}]}},
        "Config": {
            "Tty": False,
            "StopSignal": "SIGQUIT",
            "Env": ["PASSWORD=S3CRET"],
            "Cmd": ["S3CRET"],
            "Healthcheck": {"Retries": 3, "Test": ["CMD", "S3CRET"]},
            "Labels": {"lbctl.project": project, "lbctl.role": role, "other": "S3CRET"},
        },
        "HostConfig": {"Binds": ["/host/path:/x"], "NetworkMode": "elsewhere"},
        "Mounts": [{"Source": "/host/path"}],
        "NetworkSettings": {
            "Ports": {"8080/tcp": [{"HostIp": "", "HostPort": "80", "x": "S3CRET"}], "1/tcp": None},
            "Networks": {"elsewhere": {"IPAddress": "10.9.9.9"}},
        },
    }


def entry_of(id_: str, name: str) -> dict[str, Any]:
    """One of a list, likewise."""
    return {
        "Id": id_,
        "Names": [f"/{name}"],
        "Image": IMAGE,
        "ImageID": "elsewhere",
        "Command": "S3CRET",
        "State": "running",
        "Status": "Up 2 seconds",
        "Labels": {
            "lbctl.project": "shop", "lbctl.role": "backend", "lbctl.weight": "3",
            "lbctl.revision": "7", "com.example": "S3CRET",
        },
        "Mounts": [{"Source": "/host/path"}],
        "NetworkSettings": {
            "Networks": {
                "shop": {"IPAddress": "172.18.0.4", "MacAddress": "S3CRET"},
                "elsewhere": {"IPAddress": "10.9.9.9"},
            }
        },
    }  # fmt: skip


def event(project: str = "shop", role: str = "backend", **more: str) -> dict[str, Any]:
    labels = {"lbctl.project": project, "lbctl.role": role, "com.example": "S3CRET"}
    actor = {"ID": ONE, "Attributes": labels | {"image": "elsewhere"} | more}
    return {"Type": "container", "Action": "kill", "Actor": actor, "from": "elsewhere", "time": 1}


def network_event(name: str) -> dict[str, Any]:
    actor = {"ID": "n", "Attributes": {"name": name, "container": ONE, "type": "elsewhere"}}
    return {"Type": "network", "Action": "connect", "Actor": actor}


@dataclass
class Guard:
    """One that listens."""

    server: GuardServer
    path: Path
    tokens: list[str]  # the last is the admin token
    retiring: list[str]  # the last is that of before, or ""

    async def raw(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body of what it answers, until it closes or answers in full."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            writer.write(request)
            async with asyncio.timeout(scaled(5)):
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                return int(head.split()[1]), await reader.readexactly(length)
        finally:
            writer.close()

    async def ask(
        self, method: str, target: str, body: Any = None, headers: str = ""
    ) -> tuple[int, Any]:
        """A plain request, and its answer as JSON (None if it has no body)."""
        raw = b"" if body is None else json.dumps(body).encode()
        length = f"Content-Length: {len(raw)}\r\n" if raw else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n"
        status, answer = await self.raw(head.encode() + raw)
        return status, json.loads(answer) if answer else None

    async def refuses(self, method: str, target: str, **more: Any) -> str:
        """The reason that it counted, after a 403 with a sentence."""
        before = (await self.ask("GET", "/lbctl/counters"))[1]
        status, answer = await self.ask(method, target, **more)
        after = (await self.ask("GET", "/lbctl/counters"))[1]
        assert status == 403, answer
        assert answer["message"].startswith("the guard refuses it: ")
        assert after["requests"] == before["requests"] + 1
        (reason,) = [
            reason
            for reason, count in after["refused"].items()
            if count != before["refused"].get(reason, 0)
        ]
        return str(reason)


@pytest_asyncio.fixture
async def guard(fake: FakeEngine, tmp_path: Path) -> AsyncIterator[Guard]:
    for id_, role, project in (
        (ONE, "backend", "shop"),
        (TWO, "lb", "shop"),
        (POD, "pod", "shop"),
        (STRANGER, "backend", "shop2"),
    ):
        fake.on("GET", f"/containers/{id_}/json", facts_of(id_, role, project))
        fake.on("GET", f"/containers/{id_[:12]}/json", facts_of(id_, role, project))
    tokens = [TOKEN]

    def token() -> str:
        if not tokens[-1]:
            raise OperationError("cannot read the token")
        return tokens[-1]

    retiring = [""]
    server = GuardServer("shop", IMAGE, token, lambda: retiring[-1])
    guard = Guard(server, tmp_path / "own" / "engine.sock", tokens, retiring)
    await server.start(guard.path)
    yield guard
    await server.close()


@pytest_asyncio.fixture
async def behind(guard: Guard) -> AsyncIterator[GuardedEngine]:
    """The engine as an lb sees it."""
    engine = await GuardedEngine.connect(f"unix://{guard.path}")
    yield engine
    await engine.close()


@pytest.fixture
def runtime(behind: GuardedEngine) -> GuardedRuntime:
    return GuardedRuntime(behind, "shop", lambda: TOKEN)


def changed(fake: FakeEngine) -> list[str]:
    """What the engine was asked to do, other than to tell."""
    return [f"{one.method} {one.path}" for one in fake.asked if one.method != "GET"]


def assert_nothing_told(answer: object) -> None:
    assert not [secret for secret in SECRETS if secret in json.dumps(answer)]


# The runtime, through the guard.


async def test_nobody_but_root_gets_to_the_socket(guard: Guard) -> None:
    assert stat.S_IMODE(guard.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(guard.path.parent.stat().st_mode) == 0o700
    assert list(guard.path.parent.iterdir()) == [guard.path]


async def test_the_version_is_the_engine_s(guard: Guard, fake: FakeEngine) -> None:
    fake.version |= {"Os": "linux", "KernelVersion": "S3CRET"}
    answer = {"Version": "20.10.24", "ApiVersion": "1.41"}
    assert await guard.ask("GET", "/version") == (200, answer)
    assert await guard.raw(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n") == (200, b"OK")


async def test_backends_are_listed_with_what_is_needed(
    fake: FakeEngine, runtime: GuardedRuntime
) -> None:
    fake.on("GET", "/containers/json", [entry_of(ONE, "shop-backend-1")])
    (instance,) = await runtime.list()
    assert (instance.id, instance.name, instance.revision) == (ONE, "shop-backend-1", 7)
    assert instance.backend is not None
    assert (instance.backend.ip, instance.backend.weight) == ("172.18.0.4", 3)


async def test_what_is_told_of_a_list(
    fake: FakeEngine, behind: GuardedEngine, runtime: GuardedRuntime
) -> None:
    fake.on("GET", "/containers/json", [entry_of(ONE, "shop-backend-1")])
    assert_nothing_told(await behind.containers(NAMES.filters("backend")))
    assert await runtime._taken_names() == {"shop-backend-1"}
    assert json.loads(fake.asked[-1].query["filters"]) == {"name": [r"^/?shop\-backend\-[0-9]+$"]}
    (named,) = await behind.containers({"name": [r"^/?shop\-backend\-[0-9]+$"]})
    assert named == {"Names": ["/shop-backend-1"]}


async def test_what_is_told_of_a_container(behind: GuardedEngine, runtime: GuardedRuntime) -> None:
    facts = await behind.inspect(ONE)
    assert_nothing_told(facts)
    assert facts["Config"]["StopSignal"] == "SIGQUIT"
    assert facts["State"]["Health"]["FailingStreak"] == 2
    assert await runtime.published(POD[:12]) == {"8080/tcp": "0.0.0.0:80"}


async def test_what_was_never_started_is_removed(fake: FakeEngine, runtime: GuardedRuntime) -> None:
    fake.on("GET", "/containers/json", [entry_of(ONE, "shop-backend-1")])
    fake.on("DELETE", f"/containers/{ONE}", b"", status=204)
    await runtime.recover()
    assert changed(fake) == [f"DELETE /v1.41/containers/{ONE}"]
    assert dict(fake.asked[-1].query) == {"force": "1", "v": "1"}


async def test_a_backend_is_stopped_and_removed(fake: FakeEngine, runtime: GuardedRuntime) -> None:
    fake.on("POST", f"/containers/{ONE}/stop", b"", status=204)
    fake.on("DELETE", f"/containers/{ONE}", b"", status=204)
    await runtime.stop(ONE, 4.2)
    stop, remove = (one for one in fake.asked if one.method != "GET")
    assert (stop.path_qs, remove.method) == (f"/v1.41/containers/{ONE}/stop?t=5", "DELETE")


async def test_one_that_is_gone_is_gone(fake: FakeEngine, runtime: GuardedRuntime) -> None:
    fake.on("GET", f"/containers/{ONE}/json", {"message": "No such container"}, status=404)
    await runtime.stop(ONE, 1)
    assert changed(fake) == []
    assert await runtime.last_lines(ONE, 5) == []


def made_by(fake: FakeEngine) -> list[Any]:
    """An engine that creates; returns where the bodies go."""
    bodies: list[Any] = []

    async def create(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return web.json_response({"Id": ONE, "Warnings": ["S3CRET"]}, status=201)

    fake.on("GET", "/containers/json", [])
    fake.on("POST", "/containers/create", create)
    fake.on("POST", f"/containers/{ONE}/start", b"", status=204)
    return bodies


async def test_a_backend_is_made_as_the_guard_makes_it(
    fake: FakeEngine, runtime: GuardedRuntime
) -> None:
    bodies = made_by(fake)
    release = Release(7, IMAGE)
    assert await runtime.start(1, release) == [ONE]
    assert bodies == [backend_body(NAMES, release)]


async def test_an_image_is_named_before_backends_are_made_from_it(
    guard: Guard, fake: FakeEngine, runtime: GuardedRuntime
) -> None:
    bodies = made_by(fake)
    body = {"Image": "web:2", "Labels": {"lbctl.revision": "8"}}
    target = "/containers/create?name=shop-backend-1"
    assert await guard.refuses("POST", target, body=body) == "image"
    assert await runtime.start(1, Release(8, "web:2")) == [ONE]
    assert [body["Image"] for body in bodies] == ["web:2"]


async def test_a_wrong_token_names_nothing(
    guard: Guard, fake: FakeEngine, behind: GuardedEngine
) -> None:
    bodies = made_by(fake)
    runtime = GuardedRuntime(behind, "shop", lambda: "cd" * 32)
    with pytest.raises(EngineRefusedError, match="nobody has named the image web:2"):
        await runtime.start(1, Release(8, "web:2"))
    assert bodies == []
    assert await runtime.start(1, Release(8, IMAGE)) == [ONE]  # that needs no name
    right = f"Authorization: Bearer {TOKEN}\r\n"
    for headers in (
        "",
        "Authorization: Bearer \r\n",
        f"Authorization: {TOKEN}\r\n",
        f"Authorization: bearer {TOKEN}\r\n",
        f"Authorization: Bearer {TOKEN[:-1]}\r\n",
        f"Authorization: Bearer {TOKEN}0\r\n",
        right + right,
    ):
        told = {"body": {"image": "web:2"}, "headers": headers}
        assert await guard.refuses("PUT", "/lbctl/image", **told) == "token"
    guard.tokens.append("")
    told = {"body": {"image": "web:2"}, "headers": right}
    assert await guard.refuses("PUT", "/lbctl/image", **told) == "token"


async def test_during_a_rotation_the_old_token_is_right_too(
    guard: Guard, behind: GuardedEngine
) -> None:
    old, new = TOKEN, "cd" * 32
    guard.retiring.append(old)
    guard.tokens.append(new)
    await behind.name_image("web:2", old)
    await behind.name_image("web:3", new)
    guard.retiring.append("")
    await behind.name_image("web:4", new)
    told = {"body": {"image": "web:5"}}
    for token in (old, ""):
        headers = f"Authorization: Bearer {token}\r\n"
        assert await guard.refuses("PUT", "/lbctl/image", headers=headers, **told) == "token"


async def test_a_guard_that_is_another_meanwhile_is_told_the_image_again(
    guard: Guard, fake: FakeEngine, behind: GuardedEngine
) -> None:
    bodies = made_by(fake)
    asked: list[str] = []

    def token() -> str:
        asked.append(TOKEN)
        return TOKEN

    runtime = GuardedRuntime(behind, "shop", token)
    create = behind.create

    async def late(name: str, body: dict[str, Any]) -> str:
        if len(asked) == 1:
            guard.server._named.clear()  # as one that was started anew
        return await create(name, body)

    behind.create = late  # type: ignore[method-assign]
    assert await runtime.start(1, Release(8, "web:2")) == [ONE]
    assert [body["Image"] for body in bodies] == ["web:2"]
    assert len(asked) == 2


async def test_of_many_named_images_the_oldest_are_forgotten(
    guard: Guard, fake: FakeEngine, behind: GuardedEngine
) -> None:
    made_by(fake)
    for number in range(17):
        await behind.name_image(f"web:{number}", TOKEN)
    target = "/containers/create?name=shop-backend-1"
    for number, status in ((0, 403), (1, 201), (16, 201)):
        body = {"Image": f"web:{number}", "Labels": {"lbctl.revision": "8"}}
        assert (await guard.ask("POST", target, body))[0] == status


async def test_an_image_that_the_engine_lacks_is_said_as_without_a_guard(
    fake: FakeEngine, runtime: GuardedRuntime
) -> None:
    fake.on("GET", "/containers/json", [])
    fake.on("POST", "/containers/create", {"message": "No such image: web:2"}, status=404)
    with pytest.raises(ImageError, match="No such image: web:2"):
        await runtime.start(1, Release(7, "web:2"))


async def test_last_lines_of_a_backend_and_no_more(
    fake: FakeEngine, runtime: GuardedRuntime
) -> None:
    lines = [b"line %d\n" % number for number in range(9)] + [b"x" * 9000 + b"\n"]
    frames = [bytes([2, 0, 0, 0]) + len(line).to_bytes(4, "big") + line for line in lines]
    fake.stream("GET", f"/containers/{ONE}/logs", *frames)
    said = await runtime.last_lines(ONE, 3)
    assert said[:2] == ["line 7", "line 8"]
    assert len(said) == 3
    assert dict(fake.asked[-1].query) == {
        "stdout": "1", "stderr": "1", "tail": "3", "follow": "0",
    }  # fmt: skip


async def test_last_lines_of_one_with_a_terminal(fake: FakeEngine, runtime: GuardedRuntime) -> None:
    facts = facts_of(ONE)
    facts["Config"]["Tty"] = True
    fake.on("GET", f"/containers/{ONE}/json", facts)
    fake.stream("GET", f"/containers/{ONE}/logs", b"a\r\nb\r\n")
    assert await runtime.last_lines(ONE, 5) == ["a", "b"]


# What is refused.


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", f"/containers/{STRANGER}/json"),
        ("GET", f"/containers/{STRANGER[:12]}/json"),
        ("GET", f"/containers/{STRANGER}/logs?stdout=1&stderr=1&tail=5&follow=0"),
        *(
            (method, target.format(id=id_))
            for id_ in (STRANGER, TWO, POD)
            for method, target in (
                ("POST", "/containers/{id}/start"),
                ("POST", "/containers/{id}/stop?t=1"),
                ("DELETE", "/containers/{id}?force=1&v=1"),
                ("GET", "/containers/{id}/logs?stdout=1&stderr=1&tail=5&follow=0"),
            )
        ),
    ],
)
async def test_others_are_left_alone(
    guard: Guard, fake: FakeEngine, method: str, target: str
) -> None:
    assert await guard.refuses(method, target) == "container"
    assert changed(fake) == []


async def test_a_name_that_looks_like_an_id_is_none(guard: Guard, fake: FakeEngine) -> None:
    """An engine takes a name where an id is expected."""
    fake.on("GET", f"/containers/{'e' * 64}/json", facts_of(ONE))
    fake.on("GET", f"/containers/{'e' * 12}/json", facts_of(ONE))
    assert await guard.refuses("GET", f"/containers/{'e' * 12}/json") == "container"
    assert await guard.refuses("POST", f"/containers/{'e' * 64}/stop?t=1") == "container"
    assert changed(fake) == []


HOST = {"Privileged": True, "Binds": ["/:/host"]}


@pytest.mark.parametrize("key", ["HostConfig", "hostconfig", "HOSTCONFIG", "hostConfig"])
async def test_nobody_else_s_body_is_used(guard: Guard, fake: FakeEngine, key: str) -> None:
    bodies = made_by(fake)
    body = {"Image": IMAGE, "Labels": {"lbctl.revision": "7"}, key: HOST}
    assert await guard.refuses("POST", "/containers/create?name=shop-backend-1", body=body) == (
        "body"
    )
    whole = backend_body(NAMES, Release(7, IMAGE))
    assert await guard.refuses("POST", "/containers/create?name=shop-backend-1", body=whole) == (
        "body"
    )
    assert bodies == []


CREATE = b"POST /containers/create?name=shop-backend-1 HTTP/1.1\r\nHost: x\r\n"
GOOD = b'{"Image": "lbctl-nginx:1", "Labels": {"lbctl.revision": "7"}}'


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (201, CREATE + b"Content-Length: %d\r\n\r\n%s" % (len(GOOD), GOOD)),
        (201, CREATE + b"Transfer-Encoding: chunked\r\n\r\n3d\r\n%s\r\n0\r\n\r\n" % GOOD),
        (403, CREATE + b"\r\n"),
        (403, CREATE + b"Content-Length: 0\r\n\r\n"),
        (403, CREATE + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"),
        (403, CREATE + b"Content-Length: 70000\r\n\r\n" + b" " * 70_000),
        (400, CREATE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        (400, CREATE + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}"),
        (400, CREATE + b"Content-Length: +2\r\n\r\n{}"),
        (400, CREATE + b"Content-Length : 2\r\n\r\n{}"),
        (400, CREATE + b"Transfer-Encoding: xchunked\r\n\r\n{}"),
        (400, CREATE + b"X: " + b"x" * 9000 + b"\r\n\r\n"),
        (400, CREATE + b"X: y\r\n" * 100 + b"\r\n"),
        (400, b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"GET /ver\x00sion HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"nonsense\r\n\r\n"),
        (403, b"GET /version HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"),
        (403, b"GET /version HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"),
        (403, b"GET /version HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n"),
        (403, b"GET http://x/version HTTP/1.1\r\nHost: x\r\n\r\n"),
        (403, b"GET /../version HTTP/1.1\r\nHost: x\r\n\r\n"),
        (403, b"GET /%76ersion HTTP/1.1\r\nHost: x\r\n\r\n"),
        (403, b"GET //version HTTP/1.1\r\nHost: x\r\n\r\n"),
        (403, b"GET /v1.41//version HTTP/1.1\r\nHost: x\r\n\r\n"),
        (403, b"GET /VERSION HTTP/1.1\r\nHost: x\r\n\r\n"),
        (403, b"GET /version?x HTTP/1.1\r\nHost: x\r\n\r\n"),
        (403, b"GET /version#x HTTP/1.1\r\nHost: x\r\n\r\n"),
        (403, b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"),
        (403, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"BREW /version HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
)  # fmt: skip
async def test_messages_as_they_come(
    guard: Guard, fake: FakeEngine, status: int, request_: bytes
) -> None:
    bodies = made_by(fake)
    answer = await guard.raw(request_)
    assert answer[0] == status, answer
    if status != 201:
        assert json.loads(answer[1])["message"].startswith("the guard refuses it: ")
        assert sum((await guard.ask("GET", "/lbctl/counters"))[1]["refused"].values()) == 1
    assert len(bodies) == (status == 201)


SEEDS = [
    CREATE + b"Content-Length: %d\r\n\r\n%s" % (len(GOOD), GOOD),
    b"POST /v1.41/containers/%s/stop?t=1 HTTP/1.1\r\nHost: x\r\n\r\n" % ONE.encode(),
    b"DELETE /containers/%s?force=1&v=1 HTTP/1.1\r\nHost: x\r\n\r\n" % POD.encode(),
    b"GET /containers/%s/json HTTP/1.1\r\nHost: x\r\n\r\n" % ONE.encode(),
    b"PUT /lbctl/image HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer 0\r\n\r\n",
]
BITS = [
    b"/", b"//", b"/../", b"%2f", b"%2E", b"\\", b"\x00", b"\r\n", b"\n", b" ", b"?", b"&", b"=",
    b"/exec", b"/v1.41", b"A", b"\xff", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Upgrade: tcp\r\n", b'"HostConfig": {"Binds": ["/:/h"]}', b'"image"', b",", STRANGER.encode(),
]  # fmt: skip


async def test_whatever_comes_the_engine_is_asked_for_what_is_on_the_list_only(
    guard: Guard, fake: FakeEngine
) -> None:
    bodies = made_by(fake)
    fake.on("POST", f"/containers/{ONE}/stop", b"", status=204)
    chance = random.Random(7)
    for _ in range(400):
        raw = chance.choice(SEEDS)
        for _ in range(chance.randint(1, 3)):
            at = chance.randint(0, len(raw))
            raw = raw[:at] + chance.choice(BITS) + raw[at + chance.choice((0, 0, 1, 3)) :]
        reader, writer = await asyncio.open_unix_connection(str(guard.path))
        writer.write(raw)
        writer.write_eof()
        async with asyncio.timeout(scaled(5)):
            await reader.read(-1)
        writer.close()
    assert {f"{one.method} {one.path.removeprefix('/v1.41')}" for one in fake.asked} <= {
        "GET /version", f"GET /containers/{ONE}/json", f"GET /containers/{POD}/json",
        f"GET /containers/{STRANGER}/json", f"POST /containers/{ONE}/stop",
        "POST /containers/create",
    }  # fmt: skip
    assert all(body == backend_body(NAMES, Release(7, IMAGE)) for body in bodies)


async def test_nothing_behind_a_refusal_is_read(guard: Guard, fake: FakeEngine) -> None:
    bodies = made_by(fake)
    reader, writer = await asyncio.open_unix_connection(str(guard.path))
    writer.write(
        b"POST /build HTTP/1.1\r\nHost: x\r\n\r\n" + CREATE + b"Content-Length: 61\r\n\r\n" + GOOD
    )
    async with asyncio.timeout(scaled(5)):
        answers = await reader.read(-1)
    writer.close()
    assert answers.count(b"HTTP/1.1 ") == 1
    assert bodies == []


async def test_a_body_that_does_not_come(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_BODY_S", 0.05)
    status, _ = await guard.raw(CREATE + b"Content-Length: 61\r\n\r\n{")
    assert status == 403


async def test_a_refusal_is_one_short_line_of_the_log(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    await guard.ask("GET", "/" + "a" * 3000)
    (record,) = [record for record in caplog.records if "refused" in record.getMessage()]
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 400


def connections(guard: Guard) -> int:
    """How many are open."""
    assert guard.server._web is not None
    return len(guard.server._web.connections)


async def test_connections_have_a_limit(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_CONNECTIONS", 2)
    idle = [await asyncio.open_unix_connection(str(guard.path)) for _ in range(2)]
    await eventually(lambda: connections(guard) == 2)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await guard.raw(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
    for _, writer in idle:
        writer.close()

    await eventually(lambda: not connections(guard))
    assert (await guard.raw(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 200


async def test_a_head_that_does_not_come_ends_the_connection(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "_HEAD_S", 0.05)
    version = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    for sent, answers in ((b"", 0), (version[:9], 0), (version + version[:-2], 1)):
        reader, writer = await asyncio.open_unix_connection(str(guard.path))
        writer.write(sent[: len(version)])
        async with asyncio.timeout(scaled(5)):
            head = await reader.readuntil(b"}") if answers else b""
            writer.write(sent[len(version) :])
            with contextlib.suppress(ConnectionResetError):
                head += await reader.read(-1)
        assert head.count(b"HTTP/1.1 200") == answers
        writer.close()
    await eventually(lambda: not connections(guard))


# Events.


class Events:
    """An engine's stream that a test feeds."""

    def __init__(self, fake: FakeEngine) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.open = 0
        self.asked: list[web.Request] = []
        fake.on("GET", "/events", self._serve)

    def say(self, document: Any) -> None:
        self._queue.put_nowait(json.dumps(document).encode() + b"\n")

    def end(self) -> None:
        self._queue.put_nowait(b"")

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        response = web.StreamResponse()
        await response.prepare(request)
        self.open += 1
        try:
            while line := await self._queue.get():
                await response.write(line)
        finally:
            self.open -= 1
        return response


async def test_only_this_project_s_events_come_through(
    fake: FakeEngine, behind: GuardedEngine, runtime: GuardedRuntime
) -> None:
    events = Events(fake)
    for one in (
        event("shop2"), event(role="lb"), event(role="guard"), network_event("shop2"),
        {}, {"Type": "image", "Actor": {}}, event(signal="15"), network_event("shop"),
    ):  # fmt: skip
        events.say(one)
    events.end()
    seen = [change async for change in runtime.watch()]
    assert seen == [Change("subscribed"), Change("kill", ONE, leaving=True), Change("connect", ONE)]
    assert "label" not in json.loads(events.asked[0].query["filters"])
    events.say(event(signal="15"))
    events.end()
    async with behind.events(runtime._shapes.events, "1.000000000") as raw:
        (only,) = [one async for one in raw]
    assert_nothing_told(only)


async def test_a_stream_has_no_deadline_and_ends_with_the_guard(
    guard: Guard, fake: FakeEngine, runtime: GuardedRuntime
) -> None:
    events = Events(fake)
    watching = runtime.watch()
    assert await anext(watching) == Change("subscribed")
    waiting = asyncio.ensure_future(anext(watching, None))
    await eventually(lambda: events.open == 1)
    await guard.server.close()
    async with asyncio.timeout(scaled(5)):
        assert await waiting is None  # an end, not an error
    await eventually(lambda: events.open == 0)


async def test_an_engine_that_breaks_off_ends_the_stream(
    fake: FakeEngine, runtime: GuardedRuntime
) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(json.dumps(event(signal="15")).encode() + b"\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    fake.on("GET", "/events", break_off)
    assert [change async for change in runtime.watch()] in (
        [Change("subscribed")],
        [Change("subscribed"), Change("kill", ONE, leaving=True)],
    )


async def test_garbage_of_the_engine_ends_the_stream(
    fake: FakeEngine, runtime: GuardedRuntime
) -> None:
    fake.stream("GET", "/events", b"nonsense\n")
    assert [change async for change in runtime.watch()] == [Change("subscribed")]


async def test_a_reader_that_leaves_is_left(guard: Guard, fake: FakeEngine) -> None:
    events = Events(fake)
    engine = await GuardedEngine.connect(f"unix://{guard.path}")
    watching = GuardedRuntime(engine, "shop", lambda: TOKEN).watch()
    assert await anext(watching) == Change("subscribed")
    await eventually(lambda: events.open == 1)
    await engine.close()
    await eventually(lambda: events.open == 0)


async def test_a_reader_that_does_not_read_is_left(
    guard: Guard, fake: FakeEngine, runtime: GuardedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "_READER_S", 0.1)
    events = Events(fake)
    events.end()
    assert [change async for change in runtime.watch()] == [Change("subscribed")]
    await eventually(lambda: events.open == 0)
    slow = socket.socket(socket.AF_UNIX)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(str(guard.path))
    # As it came: the guard takes no other spelling.
    asked = events.asked[0].raw_path
    slow.sendall(f"GET {asked} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await eventually(lambda: events.open == 1)
    big = event(signal="15") | {"Action": "kill" + "x" * 100_000}
    for _ in range(40):
        events.say(big)
    await eventually(lambda: events.open == 0)
    slow.close()


async def test_a_reader_that_does_not_read_is_left_at_the_end_too(
    guard: Guard, fake: FakeEngine, runtime: GuardedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "_READER_S", 1.0)
    events = Events(fake)
    events.end()
    assert [change async for change in runtime.watch()] == [Change("subscribed")]
    assert guard.server._web is not None
    others = set(guard.server._web.connections)
    slow = socket.socket(socket.AF_UNIX)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(str(guard.path))
    slow.sendall(f"GET {events.asked[0].raw_path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await eventually(lambda: events.open == 1)
    (connection,) = set(guard.server._web.connections) - others
    transport = connection.transport
    assert isinstance(transport, asyncio.Transport)
    for _ in range(40):
        events.say(event(signal="15") | {"Action": "kill" + "x" * 100_000})
    await eventually(lambda: transport.get_write_buffer_size() > 100_000)
    guard.server._streams[0].set()  # while there is much to be read before the end
    await eventually(lambda: connections(guard) == len(others))
    assert transport.get_write_buffer_size() == 0
    slow.close()


async def test_of_many_streams_the_oldest_ends(
    fake: FakeEngine, behind: GuardedEngine, runtime: GuardedRuntime
) -> None:
    Events(fake)
    watching = [runtime.watch() for _ in range(9)]
    for one in watching:
        assert await anext(one) == Change("subscribed")
    async with asyncio.timeout(scaled(5)):
        assert await anext(watching[0], None) is None
    await behind.close()


# When there is no engine, or no guard.


async def test_without_an_engine_the_guard_says_so(
    guard: Guard, behind: GuardedEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    await guard.server._let_go(guard.server._engine)
    with pytest.raises(EngineUnavailableError, match=r"there is no .*/none\.sock$"):
        await behind.about()


async def test_a_call_that_finds_no_engine_ends_no_other_call(
    guard: Guard, fake: FakeEngine, behind: GuardedEngine
) -> None:
    asked, held = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        asked.set()
        await held.wait()
        return web.json_response([])

    async def away(container: str) -> dict[str, Any]:
        raise EngineUnavailableError("there is no engine")

    fake.on("GET", "/containers/json", slow)
    listing = asyncio.ensure_future(behind.containers(NAMES.filters("backend")))
    async with asyncio.timeout(scaled(5)):
        await asked.wait()
        engine = guard.server._engine
        assert engine is not None
        engine.inspect = away  # type: ignore[method-assign]
        with pytest.raises(EngineUnavailableError):
            await behind.inspect(ONE)
        assert guard.server._engine is None
        held.set()
        assert await listing == []
    await eventually(lambda: engine._docker.session.closed)


async def test_an_engine_that_is_back_is_connected_to_anew(
    guard: Guard, fake: FakeEngine, behind: GuardedEngine, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    fake.on("GET", "/containers/json", [])
    here = os.environ["DOCKER_HOST"]
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    await guard.server._let_go(guard.server._engine)
    with pytest.raises(EngineUnavailableError):
        await behind.containers(NAMES.filters("backend"))
    monkeypatch.setenv("DOCKER_HOST", here)
    fake.version = {"Version": "29.0", "ApiVersion": "1.52"}
    assert await behind.containers(NAMES.filters("backend")) == []
    assert fake.asked[-1].path == "/v1.52/containers/json"


async def test_what_the_engine_refuses_is_passed_on(
    fake: FakeEngine, behind: GuardedEngine
) -> None:
    fake.on("POST", f"/containers/{ONE}/start", {"message": "no\x1b room"}, status=500)
    with pytest.raises(EngineRefusedError, match=r"no\? room") as caught:
        await behind.start(ONE)
    assert caught.value.status == 500


async def test_without_a_guard_it_is_the_guard_that_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_module, "_PATIENCE_S", 0.05)
    with pytest.raises(EngineUnavailableError, match=r"no guard answers at .*/none\.sock\n"):
        await GuardedEngine.connect(f"unix://{tmp_path}/none.sock")


async def test_a_guard_that_starts_again_is_waited_for(guard: Guard) -> None:
    await guard.server.close()
    guard.path.unlink()
    asked = asyncio.ensure_future(GuardedEngine.connect(f"unix://{guard.path}"))
    await asyncio.sleep(0)
    second = GuardServer("shop", IMAGE, lambda: TOKEN)
    await second.start(guard.path)
    async with asyncio.timeout(scaled(5)):
        await (await asked).close()
    await second.close()


async def test_the_next_guard_takes_the_socket_over(guard: Guard, behind: GuardedEngine) -> None:
    first, _ = await behind.counters()
    second = GuardServer("shop", IMAGE, lambda: TOKEN)
    await second.start(guard.path)
    assert (await behind.counters())[0] == first  # on the connection that is there
    fresh = await GuardedEngine.connect(f"unix://{guard.path}")
    assert (await fresh.counters())[0] != first
    await fresh.close()
    await second.close()


async def test_a_guard_takes_its_place_again_when_the_next_one_is_gone(guard: Guard) -> None:
    place = guard.path.stat().st_ino
    await guard.server.keep_place()
    assert guard.path.stat().st_ino == place
    second = GuardServer("shop", IMAGE, lambda: TOKEN)
    await second.start(guard.path)
    await guard.server.keep_place()  # somebody answers there
    taken = guard.path.stat().st_ino
    assert taken != place
    assert (await guard.ask("GET", "/lbctl/counters"))[1]["life"] == second._life
    await eventually(lambda: second._web is not None and not second._web.connections)
    await second.close()
    await guard.server.keep_place()
    assert guard.path.stat().st_ino != taken
    assert (await guard.ask("GET", "/version"))[0] == 200
    guard.path.unlink()
    await guard.server.keep_place()
    assert (await guard.ask("GET", "/version"))[0] == 200


async def test_a_socket_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperationError, match="cannot listen on"):
        await GuardServer("shop", IMAGE, lambda: TOKEN).start(tmp_path / "file" / "x.sock")


@pytest.mark.parametrize(
    "told", [{}, [], {"life": "a", "requests": "x", "refused": {}}, {"life": "a", "refused": []}]
)
async def test_counters_of_no_known_shape(fake: FakeEngine, told: Any) -> None:
    """From whatever listens in the place of a guard."""
    fake.on("GET", "/lbctl/counters", told)
    engine = await GuardedEngine.connect(os.environ["DOCKER_HOST"])
    with pytest.raises(EngineError, match="another version"):
        await engine.counters()
    await engine.close()


async def test_counters(guard: Guard, behind: GuardedEngine) -> None:
    life, counts = await behind.counters()
    assert counts == GuardCounts(1, {})  # /version, when it connected
    await guard.ask("GET", "/info")
    await guard.ask("GET", "/info")
    await guard.ask("GET", "/Info")
    assert await behind.counters() == (life, GuardCounts(4, {"path": 2, "target": 1}))
