"""The guard as a process: it listens, keeps, and ends when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from lbctl.paths import Paths
from lbctl.process import guard as guard_module
from lbctl.runtime.guarded import GuardedEngine
from tests.support.deadlines import eventually, scaled
from tests.unit.runtime.fake_engine import fake

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.runtime.fake_engine import FakeEngine

__all__ = ["fake"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the socket."""
    return tmp_path / "guard" / "engine.sock"


@pytest.fixture
def place(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Where the container's files are, here."""
    place = Paths(tmp_path / "state", tmp_path / "secrets", tmp_path)
    monkeypatch.setattr(guard_module, "CONTAINER", place)
    monkeypatch.setattr(guard_module, "GUARD_SOCKET", path)
    return place


async def test_it_serves_until_it_is_told_to_end(
    fake: FakeEngine, place: Paths, path: Path
) -> None:
    fake.on("GET", "/containers/json", [])
    fake.stream("GET", "/events")
    running = asyncio.create_task(guard_module._run("shop", "lbctl-nginx:1"))
    await eventually(place.ready.exists)
    engine = await GuardedEngine.connect(f"unix://{path}")
    assert engine.version == "20.10.24"
    await engine.close()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(scaled(5)):
        await running


async def test_it_goes_on_trying_where_it_cannot_listen(
    fake: FakeEngine, place: Paths, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pod and lbs are kept all the same."""
    monkeypatch.setattr(guard_module, "_RETRY_S", 0.01)
    fake.on("GET", "/containers/json", [])
    fake.stream("GET", "/events")
    path.parent.touch()  # a file where the directory should be
    running = asyncio.create_task(guard_module._run("shop", "lbctl-nginx:1"))
    await eventually(lambda: any(one.path.endswith("/events") for one in fake.asked))
    assert not place.ready.exists()
    path.parent.unlink()
    await eventually(place.ready.exists)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(scaled(5)):
        await running


async def test_it_listens_again_where_the_next_one_came_and_went(
    fake: FakeEngine, place: Paths, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "_LOOK_S", 0.01)
    fake.on("GET", "/containers/json", [])
    fake.stream("GET", "/events")
    running = asyncio.create_task(guard_module._run("shop", "lbctl-nginx:1"))
    await eventually(place.ready.exists)
    await asyncio.to_thread(path.unlink)
    await eventually(path.exists)
    engine = await GuardedEngine.connect(f"unix://{path}")
    await engine.close()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(scaled(5)):
        await running
