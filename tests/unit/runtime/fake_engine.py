"""An engine on a unix socket that says whatever a test wants it to say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest_asyncio
from aiohttp import web

from lbctl.runtime.engine import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    import pytest

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeEngine:
    """Answers by method and path (without the version); everything asked is in `asked`."""

    def __init__(self) -> None:
        self.version: dict[str, Any] = {"Version": "20.10.24", "ApiVersion": "1.41"}
        self.asked: list[web.Request] = []
        self._handlers: dict[tuple[str, str], Handler] = {}

    def on(self, method: str, path: str, answer: Any, status: int = 200) -> None:
        """Answer with JSON, with raw bytes, or as a handler does."""
        if callable(answer):
            self._handlers[method, path] = answer
            return

        async def handler(_: web.Request) -> web.StreamResponse:
            if isinstance(answer, bytes):
                return web.Response(body=answer, status=status)
            return web.json_response(answer, status=status)

        self._handlers[method, path] = handler

    def stream(self, method: str, path: str, *chunks: bytes) -> None:
        """Answer with these chunks, one write each, and end."""

        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for chunk in chunks:
                await response.write(chunk)
            return response

        self.on(method, path, handler)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        prefix = f"/v{self.version['ApiVersion']}"
        asked = request.path
        path = asked if asked == "/version" else asked.removeprefix(prefix)
        handler = self._handlers.get((request.method, path))
        if handler is None and path == "/version":
            return web.json_response(self.version)
        if handler is None:
            return web.json_response({"message": "page not found"}, status=404)
        return await handler(request)


@pytest_asyncio.fixture
async def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeEngine]:
    """A fake engine that DOCKER_HOST leads to."""
    fake = FakeEngine()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    path = tmp_path / "docker.sock"
    await web.UnixSite(runner, str(path)).start()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield fake
    await runner.cleanup()


@pytest_asyncio.fixture
async def engine(fake: FakeEngine) -> AsyncIterator[Engine]:
    """A client of the fake one."""
    engine = await Engine.connect()
    yield engine
    await engine.close()
