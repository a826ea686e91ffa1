"""Scripted workers and controllers of other lbs, on the socket of a real hub."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from lbctl.model import DURATION_BUCKETS_S, Backend, Failure
from lbctl.process import wire
from lbctl.process.hub import Hub
from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lbctl.model import Snapshot
    from lbctl.paths import Paths

BACKEND = Backend("b1", "web-1", "10.0.0.1")


class ScriptedWorker:
    """Says what the test tells it to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, document: dict[str, Any]) -> None:
        self.writer.write(wire.encode(document))

    def report(
        self,
        revision: int,
        ok: int = 0,
        in_flight: int = 0,
        name: str = "web-1",
        *,
        pool: int = 1,
        id: str = "b1",  # noqa: A002
        everything: bool = False,
        stale: int | None = None,
    ) -> None:
        counted = {
            "name": name,
            "pool": pool,
            "codes": [0, ok, 0, 0, 0],
            "buckets": [ok] + [0] * len(DURATION_BUCKETS_S),
            "duration_sum_s": ok / 1000,
            "in_flight": in_flight,
            "retries": {"stale": ok if stale is None else stale},
        }
        self.say(
            {
                "report": {
                    "revision": revision,
                    "everything": everything,
                    "tasks": 4,
                    "connections": {"downstream": 2, "upstream": 1},
                    "refused": {"host": ok},
                    "lost": 2 * ok,
                    "backends": {id: counted},
                }
            }
        )

    async def snapshot(self) -> Snapshot:
        async with asyncio.timeout(scaled(5)):
            return wire.snapshot_of(wire.decode(await self.reader.readline())["snapshot"])

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@asynccontextmanager
async def serving(
    paths: Paths,
    suspects: list[str] | None = None,
    uid: int | None = None,
    failing: list[tuple[str, Failure]] | None = None,
) -> AsyncIterator[Hub]:
    heard = [] if suspects is None else suspects
    rows = [] if failing is None else failing
    hub = Hub(
        paths,
        {os.geteuid() if uid is None else uid},
        heard.append,
        lambda backend_id, cause: rows.append((backend_id, cause)),
        lb="a",
    )
    await hub.start()
    try:
        yield hub
    finally:
        await hub.close()
        while open_ends:
            with suppress(OSError):
                await open_ends.pop().leave()


open_ends: list[ScriptedWorker] = []


async def connect(paths: Paths) -> ScriptedWorker:
    worker = ScriptedWorker(*await asyncio.open_unix_connection(str(paths.workers_socket)))
    open_ends.append(worker)
    return worker


async def join(paths: Paths, life: str = "life-1", name: str = "worker-0") -> ScriptedWorker:
    worker = await connect(paths)
    worker.say({"hello": {"life": life, "name": name, "pid": os.getpid()}})
    return worker


class ScriptedPeer:
    """The controller of another lb, as far as the leader sees it."""

    def __init__(self, worker: ScriptedWorker) -> None:
        self._end = worker

    def say(self, document: dict[str, Any]) -> None:
        self._end.say(document)

    async def heard(self) -> dict[str, Any]:
        async with asyncio.timeout(scaled(5)):
            return wire.decode(await self._end.reader.readline())

    async def rest(self) -> bytes:
        async with asyncio.timeout(scaled(5)):
            return await self._end.reader.read()

    async def leave(self) -> None:
        open_ends.remove(self._end)
        await self._end.leave()


async def follow(paths: Paths, lb: str) -> ScriptedPeer:
    peer = ScriptedPeer(await connect(paths))
    peer.say({"peer": lb})
    return peer
