"""How long it takes until everybody knows a newcomer, over real sockets."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from lbctl.config import Control, Health
from lbctl.control.http import HttpListWriter, HttpProbe
from lbctl.control.reconciler import Reconciler
from lbctl.core.credentials import token_of
from lbctl.model import Backend, ControlStats, Instance, Phase
from tests.support.deadlines import eventually, scaled
from tests.support.fakes import FakeRoutes, MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BACKENDS = 10
ROUNDS = 15
SECRET = "5a" * 32


class FakeNginx:
    """Takes and serves the list as the nginx image does, and keeps the times."""

    def __init__(self, number: int) -> None:
        self.ip = f"127.82.1.{number}"
        self.token = ""
        self.files: dict[str, bytes] = {}
        self.asked_at = 0.0
        self.written_at = 0.0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Instance]:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_put("/{name}", self._put)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, self.ip, 0).start()
        try:
            port = runner.addresses[0][1]
            backend = Backend(self.ip, self.ip, self.ip, port, port)
            self.token = token_of(SECRET, backend)
            yield Instance(self.ip, self.ip, Phase.RUNNING, backend)
        finally:
            await runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        self.asked_at = self.asked_at or time.monotonic()
        return web.Response(text=f"{request.path} is ok\n")

    async def _put(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        self.files[request.match_info["name"]] = await request.read()
        self.written_at = time.monotonic()
        return web.Response(status=204)

    @property
    def listed(self) -> list[str]:
        return self.files.get("ips.txt", b"").decode().split()


@asynccontextmanager
async def reconciling(routes: FakeRoutes) -> AsyncIterator[Reconciler]:
    probe = HttpProbe(Health(probe_timeout_s=scaled(1.0)))
    writer = HttpListWriter(scaled(1.0), partial(token_of, SECRET))
    reconciler = Reconciler(
        Health(),
        Control(),
        probe=probe,
        writer=writer,
        routes=routes,
        store=MemoryStore(),
        stats=ControlStats(),
    )
    task = asyncio.create_task(reconciler.run())
    try:
        yield reconciler
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await probe.close()
        await writer.close()


async def test_from_the_first_passed_check_to_the_list_on_every_backend() -> None:
    """The promise is a median under 100 ms with ten backends."""
    routes = FakeRoutes()
    servers = [FakeNginx(number) for number in range(1, BACKENDS + 1)]
    newcomer = servers[-1]
    async with AsyncExitStack() as stack, reconciling(routes) as reconciler:
        instances = [await stack.enter_async_context(server.serving()) for server in servers]
        reconciler.observe(instances[:-1])
        await eventually(lambda: len(routes.routed) == BACKENDS - 1)
        durations_ms = []
        for _ in range(ROUNDS):
            newcomer.asked_at = 0.0
            newcomer.files.clear()
            reconciler.observe(instances)
            await eventually(lambda: len(routes.routed) == BACKENDS and not reconciler.lagging())
            assert all(server.listed == [s.ip for s in servers] for server in servers)
            written_at = max(server.written_at for server in servers)
            durations_ms.append((written_at - newcomer.asked_at) * 1000)
            reconciler.observe(instances[:-1])
            await eventually(lambda: not reconciler.lagging())
    median_ms = statistics.median(durations_ms)
    print(
        f"\n{BACKENDS} backends, {ROUNDS} joins: from the first passed check to the list on all: "
        f"median {median_ms:.0f} ms, worst {max(durations_ms):.0f} ms"
    )
    assert median_ms < scaled(100)


async def test_a_whole_fleet_at_once_makes_one_list() -> None:
    routes = FakeRoutes()
    servers = [FakeNginx(number) for number in range(1, BACKENDS + 1)]
    async with AsyncExitStack() as stack, reconciling(routes) as reconciler:
        instances = [await stack.enter_async_context(server.serving()) for server in servers]
        reconciler.observe(instances)
        await eventually(lambda: len(routes.routed) == BACKENDS and not reconciler.lagging())
        first, last = min(s.asked_at for s in servers), max(s.written_at for s in servers)
        print(
            f"\n{BACKENDS} newcomers at once: {(last - first) * 1000:.0f} ms, "
            f"{reconciler.membership().generation} lists"
        )
        assert all(server.listed == [s.ip for s in servers] for server in servers)
        assert reconciler.membership().generation <= 3
