"""A machine for the command line: stacks that are there at once, with a real admin port.

The command runs an event loop of its own, so the servers behind it run in another thread.
"""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from lbctl.admin.api import AdminServer, Facts
from lbctl.admin.auth import LOOPBACK, Access
from lbctl.cli.app import run
from lbctl.cli.screen import Screen, console
from lbctl.cli.session import Session
from lbctl.deploy import Address, FoundStack, LogLine, Progress, StackOptions
from lbctl.errors import EngineUnavailableError, LbctlError, OperationError
from lbctl.model import Process, Rollout, RolloutState, State, TrafficTotals
from tests.unit.admin.fakes import (
    FakeFleet,
    FakeJournal,
    FakeReloader,
    FakeRotator,
    FakeScaler,
    FakeTraffic,
    backend_status,
    synced_stats,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from lbctl.deploy import Stack

TOKEN = "f" * 64
NO_ENGINE = "no Docker engine: there is no /var/run/docker.sock\ninstall one"


class FleetScaler(FakeScaler):
    """Has what was wished for at once. A rollout is under way when it is asked for, and has
    ended as `ends` says, or as `then`, when somebody looks again.
    """

    def __init__(self, fleet: FakeFleet) -> None:
        super().__init__()
        self._fleet = fleet
        self.wishes: list[int] = []
        self.drains = 0  # so many of those that are wished for are out by hand
        self.asked: list[tuple[str, int]] = []  # image and batch of each rollout
        self.ends = RolloutState.DONE
        self.message = ""
        self.then: Rollout | None = None
        self._now: Rollout | None = None

    @property
    def rollout(self) -> Rollout | None:
        now = self._now
        if self.then is not None:
            self._now, self.then = self.then, None
        return now

    @rollout.setter
    def rollout(self, now: Rollout | None) -> None:
        self._now = now

    async def roll_out(self, image: str, batch: int) -> Rollout:
        begun = await super().roll_out(image, batch)
        self.asked.append((image, batch))
        replaced = begun.total if self.ends is RolloutState.DONE else 0
        self.rollout = replace(begun, state=self.ends, replaced=replaced, message=self.message)
        return begun

    async def scale(self, replicas: int) -> None:
        self.wishes.append(replicas)
        await super().scale(replicas)
        self._fleet.rows = [
            backend_status(
                f"b-{number}", state=State.DRAINING if number <= self.drains else State.UP
            )
            for number in range(1, replicas + 1)
        ]


class Lb:
    """What a started stack has: an admin port and a traffic port, on a loop in a thread."""

    def __init__(self) -> None:
        self.fleet = FakeFleet()
        self.scaler = FleetScaler(self.fleet)
        self.reloader = FakeReloader()
        self.rotator = FakeRotator()
        self.counted = FakeTraffic()
        self.journal = FakeJournal()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._admin = socket.create_server(("127.0.0.1", 0))
        self._traffic = socket.create_server(("127.0.0.1", 0))
        self.admin = Address(*self._admin.getsockname())
        self.traffic = Address(*self._traffic.getsockname())
        self._do(self._start())

    def processes(self, running: list[Process]) -> None:
        """These are the lb's from now on."""
        self.counted.running = running

    def stall(self) -> None:
        """Take a while for every answer: what the admin port asks for is not at hand."""

        def slow() -> TrafficTotals:
            time.sleep(0.5)
            return FakeTraffic().totals()

        self.counted.totals = slow  # type: ignore[method-assign]

    def close(self) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, job: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(job, self._loop).result(10)

    async def _start(self) -> None:
        facts = Facts("shop", "local", "1.2.3", "127.0.0.1:8080", "127.0.0.1:9900")
        access = Access(lambda: TOKEN, lambda: LOOPBACK)
        self._server = AdminServer(
            self.fleet,
            self.counted,
            self.scaler,
            self.reloader,
            self.rotator,
            synced_stats(),
            facts,
            access,
            journal=self.journal,
        )
        await self._server.start(self._admin)

        async def served_list(_request: web.Request) -> web.Response:
            return web.Response(text="".join(f"127.1.0.{n + 1}\n" for n in range(self._size())))

        app = web.Application()
        app.add_routes([web.get("/", served_list)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, self._traffic).start()

    async def _stop(self) -> None:
        await self._server.close()
        await self._runner.cleanup()

    def _size(self) -> int:
        return len(self.fleet.rows)


class FakeStack:
    """Implements deploy.Stack."""

    def __init__(self, runtime: str, lb: Lb) -> None:
        self.runtime = runtime
        self.lb = lb
        self.there = False
        self.running = True
        self.lbs: tuple[str, ...] = ()
        self.ending = False  # another command is at work, and that is `down`
        self.ends_after_s: float | None = None  # `up` has started it
        self.error: LbctlError | None = None
        self.options: list[StackOptions] = []
        self.lines = [LogLine("lb", "started"), LogLine("lb", "\x1b[31mred\x1b[0m\x07")]
        self.fetched: list[str] = []
        self.opened = self.closed = 0

    async def find(self) -> FoundStack | None:
        return self._found() if self.there else None

    async def settled(self, progress: Progress) -> FoundStack | None:  # noqa: ARG002
        if self.ending:
            self.there = False
        return await self.find()

    async def up(self, options: StackOptions, progress: Progress) -> FoundStack:
        if self.error is not None:
            raise self.error
        progress.note(f"starting {options.config.project}-lb")
        progress.log("a line of a build")
        self.options.append(options)
        self.there = self.running = True
        if self.ends_after_s is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self.ends_after_s, setattr, self, "there", False)
        return self._found()

    async def upgrade(self, options: StackOptions, progress: Progress) -> FoundStack:
        if self.error is not None:
            raise self.error
        progress.note("replacing shop-lb-a")
        self.options.append(options)
        return self._found()

    async def down(self, progress: Progress) -> bool:
        progress.note("stopping")
        was, self.there = self.there, False
        return was

    async def fetch(self, image: str, progress: Progress) -> None:
        if self.error is not None:
            raise self.error
        progress.note(f"pulling {image}")
        self.fetched.append(image)

    async def admin_token(self) -> str:
        if not self.there:
            raise OperationError("no token yet")
        return TOKEN

    async def logs(self, follow: bool, tail: int) -> AsyncIterator[LogLine]:  # noqa: ARG002
        for line in self.lines[-tail:] if tail else ():
            yield line

    async def close(self) -> None:
        self.closed += 1

    def _found(self) -> FoundStack:
        lb = self.lb
        return FoundStack(
            self.runtime, "shop", "lb", self.running, lb.traffic, lb.admin, lbs=self.lbs
        )


@dataclass
class Machine:
    """Implements cli.resolve.Runtimes. `engine_problem` and `nginx` say what it lacks."""

    lb: Lb
    engine_problem: str = ""
    nginx: str = ""
    stacks: dict[str, FakeStack] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stacks = {name: FakeStack(name, self.lb) for name in ("docker", "local")}

    async def docker(self, project: str) -> Stack:  # noqa: ARG002
        if self.engine_problem:
            raise EngineUnavailableError(self.engine_problem)
        return self._open("docker")

    async def local(self, project: str) -> Stack:  # noqa: ARG002
        return self._open("local")

    def nginx_problem(self) -> str:
        return self.nginx

    def _open(self, runtime: str) -> FakeStack:
        stack = self.stacks[runtime]
        stack.opened += 1
        return stack

    def type(self, *arguments: str) -> Typed:
        """Run one command as if typed."""
        out, err = io.StringIO(), io.StringIO()
        session = Session(screen=Screen(console(out), console(err)), runtimes=self)
        status = run(arguments, session)
        for stack in self.stacks.values():
            assert stack.opened == stack.closed, f"{stack.runtime} was left open"
        return Typed(status, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Typed:
    """What a command did."""

    status: int
    out: str
    err: str
