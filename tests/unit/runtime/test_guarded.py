"""The runtime behind a guard that may come later than who asks it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from aiohttp import web

from lbctl.errors import EngineUnavailableError
from lbctl.model import LABEL_REVISION
from lbctl.runtime import guarded
from lbctl.runtime.guarded import GuardedEngine, GuardedRuntime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.unit.runtime.fake_engine import FakeEngine

# Made by a controller that was killed before it started it.
LEFT = {
    "Id": "f00", "Names": ["/shop-backend-9"], "State": "created", "Status": "Created",
    "Labels": {LABEL_REVISION: "1"},
}  # fmt: skip


@pytest_asyncio.fixture
async def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GuardedRuntime]:
    """Of a guard whose socket is where `serve` puts it."""
    monkeypatch.setattr(guarded, "GUARD_SOCKET", tmp_path / "guard.sock")
    monkeypatch.setattr(guarded, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(guarded, "_RETRY_S", 0.01)
    it = GuardedRuntime.behind_guard("shop", lambda: "5a" * 32)
    yield it
    await it.close()


async def serve(fake: FakeEngine, tmp_path: Path) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "guard.sock")).start()
    return runner


def targets(fake: FakeEngine) -> list[str]:
    return [f"{request.method} {request.path}" for request in fake.asked]


async def test_a_guard_that_comes_later_is_greeted_before_it_is_asked(
    runtime: GuardedRuntime, fake: FakeEngine, tmp_path: Path
) -> None:
    for ask in (runtime.list, lambda: anext(aiter(runtime.watch())), runtime.counters):
        with pytest.raises(EngineUnavailableError, match="no guard answers at"):
            await ask()
    fake.on("GET", "/containers/json", [])
    guard = await serve(fake, tmp_path)
    try:
        assert await runtime.list() == []
        assert targets(fake)[:2] == ["GET /version", "GET /v1.41/containers/json"]
        await runtime.list()
        assert targets(fake).count("GET /version") == 1
    finally:
        await guard.cleanup()


async def test_what_was_never_started_goes_before_the_first_list_and_only_then(
    runtime: GuardedRuntime, fake: FakeEngine, tmp_path: Path
) -> None:
    fake.on("GET", "/containers/json", [LEFT])
    fake.on("DELETE", "/containers/f00", b"", status=204)
    guard = await serve(fake, tmp_path)
    try:
        await asyncio.gather(runtime.list(), runtime.list())
        await runtime.list()
    finally:
        await guard.cleanup()
    assert targets(fake).count("DELETE /v1.41/containers/f00") == 1
    assert targets(fake).index("DELETE /v1.41/containers/f00") == 2  # the version, those created


async def test_an_engine_that_is_too_old_is_told_whenever_it_is_asked(
    runtime: GuardedRuntime, fake: FakeEngine, tmp_path: Path
) -> None:
    fake.version["ApiVersion"] = "1.24"
    guard = await serve(fake, tmp_path)
    try:
        for _ in range(2):
            with pytest.raises(EngineUnavailableError, match="too old: it speaks"):
                await runtime.list()
    finally:
        await guard.cleanup()


async def test_a_greeting_does_not_wait_for_a_greeting(tmp_path: Path) -> None:
    """One that nobody answers ends in time, however many ask."""
    engine = GuardedEngine.at(f"unix://{tmp_path / 'none.sock'}")
    try:
        async with asyncio.timeout(10):
            results = await asyncio.gather(
                *(engine.counters() for _ in range(5)), return_exceptions=True
            )
    finally:
        await engine.close()
    assert {type(result) for result in results} == {EngineUnavailableError}
