"""Finding an engine, and what goes wrong with any question to it, in lbctl's words."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from lbctl.errors import EngineError, EngineUnavailableError
from lbctl.runtime.engine import Engine
from lbctl.runtime.transport import EngineRefusedError, _unreachable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.runtime.fake_engine import FakeEngine


async def test_connect_speaks_the_engine_s_own_version(fake: FakeEngine) -> None:
    fake.version = {"Version": "29.0", "ApiVersion": "1.52"}
    fake.on("GET", "/containers/json", [])
    engine = await Engine.connect()
    assert await engine.containers({}) == []
    assert engine.version == "29.0"
    assert engine.socket is not None
    assert engine.address == f"unix://{engine.socket}"
    assert fake.asked[-1].path == "/v1.52/containers/json"
    await engine.close()


@pytest.mark.parametrize("api", ["1.39", "1.24", "0.9", "", "x", "1"])
async def test_an_engine_that_is_too_old(fake: FakeEngine, api: str) -> None:
    fake.version = {"Version": "17.06", "ApiVersion": api}
    with pytest.raises(EngineUnavailableError, match=r"too old.*lbctl needs 1\.40"):
        await Engine.connect()


async def test_no_socket_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(EngineUnavailableError, match=r"there is no .*/no\.sock\ninstall one"):
        await Engine.connect()


async def test_nobody_behind_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left.sock"))
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/left.sock")
        with pytest.raises(EngineUnavailableError, match=r"connection refused\nstart it"):
            await Engine.connect()


async def test_nobody_behind_a_tcp_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(EngineUnavailableError, match="connection refused"):
            await Engine.connect()


def test_no_permission_says_what_to_do() -> None:
    # A test that runs as root is let in everywhere.
    error = _unreachable(PermissionError(errno.EACCES, "x"), "unix:///run/docker.sock")
    assert isinstance(error, EngineUnavailableError)
    assert "no permission to use the Docker engine at /run/docker.sock" in str(error)
    assert "group docker" in str(error)


@pytest.mark.parametrize("host", ["nonsense", "gopher://x"])
async def test_a_docker_host_that_is_wrong(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(EngineUnavailableError, match="DOCKER_HOST"):
        await Engine.connect()


async def test_a_context_that_is_not_there(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "away")
    with pytest.raises(EngineUnavailableError, match="context is wrong"):
        await Engine.connect()


async def test_no_socket_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("aiodocker.docker._sock_search_paths", [tmp_path / "none"])
    with pytest.raises(EngineUnavailableError, match=r"there is no /var/run/docker\.sock"):
        await Engine.connect()


async def test_a_refusal_carries_status_and_plain_words(fake: FakeEngine, engine: Engine) -> None:
    fake.on("POST", "/containers/create", {"message": "no\x1b[31m room\nleft"}, status=500)
    with pytest.raises(EngineRefusedError) as caught:
        await engine.create("one", {})
    assert caught.value.status == 500
    assert str(caught.value) == "create one: no?[31m room?left"


@pytest.mark.parametrize("body", [b"", b"oops", b"[]", b'"x"', b"\xff\xfe"])
async def test_a_refusal_of_any_shape(fake: FakeEngine, engine: Engine, body: bytes) -> None:
    fake.on("GET", "/containers/json", body, status=503)
    with pytest.raises(EngineRefusedError) as caught:
        await engine.containers({})
    assert caught.value.message.isprintable()
    assert caught.value.message


async def test_an_answer_that_is_not_json(fake: FakeEngine, engine: Engine) -> None:
    fake.on("GET", "/containers/json", b"<html>")
    with pytest.raises(EngineError, match="not JSON"):
        await engine.containers({})


async def test_an_engine_that_breaks_off(fake: FakeEngine, engine: Engine) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    fake.on("GET", "/containers/json", hang_up)
    with pytest.raises(EngineError, match="list containers: the Docker engine broke off"):
        await engine.containers({})
