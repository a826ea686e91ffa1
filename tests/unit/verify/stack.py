"""A stack for verify to disturb: real sockets, and a control plane that does at once what it is
asked for, unless a test breaks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lbctl.errors import UnsupportedError
from lbctl.verify.answers import list_of
from lbctl.verify.run import Options, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from lbctl.verify.load import Load
    from lbctl.verify.promises import Row, Verdict
    from lbctl.verify.view import Process, Seat

# Of this process's own: several run side by side (pytest -n).
_NET = 77 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_addresses = (f"127.{_NET}.{high}.{low}" for high in range(256) for low in range(1, 255))


@dataclass
class Backend:
    """One that serves a list of its own."""

    id: str
    ip: str
    server: asyncio.Server | None = None
    state: str = "up"
    served: bytes = b""

    @property
    def up(self) -> bool:
        return self.state == "up"


@dataclass
class Stack:
    """Implements verify's Admin and Hands, and is the lb too.

    `lacks` are the changes that it does not know, `keeps` the roles whose processes no change
    replaces; a `deaf` one goes on with its old checks. `answer` makes an answer of the lb from the
    list; a test that wants a broken one replaces it. `publish` brings the list to the backends.
    `done` tells what was done, in order.
    """

    lacks: set[str] = field(default_factory=set)
    keeps: set[str] = field(default_factory=set)
    lbs: tuple[str, ...] = ("",)
    guard: bool = False
    unrestartable: str = "there is no engine"
    stoppable: bool = True
    upgradable: bool = True
    dead_forever: bool = False
    deaf: bool = False
    done: list[str] = field(default_factory=list)
    backends: list[Backend] = field(default_factory=list)
    generation: int = 1
    replicas: int | None = 3
    revision: int = 0
    rollout_state: str = "done"
    settings: dict[str, Any] = field(
        default_factory=lambda: {"probe_status": "200-299", "probe_interval_s": 2.0}
    )
    port: int = 0
    answer: Callable[[bytes], bytes | None] = field(default=lambda body: whole(body))
    during: dict[str, Callable[[], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pids = itertools.count(100)
        self._servers: list[asyncio.Server] = []
        self._clients: set[_Http] = set()
        self._readers: set[_Http] = set()  # of lists
        self.processes: list[dict[str, Any]] = [
            {
                "role": name.partition("-")[0],
                "name": f"{lb}/{name}",
                "lb": lb,
                "pid": next(self._pids),
                "started_at": "then",
            }
            for lb in self.lbs
            for name in ("supervisor", "controller", "worker-0", "worker-1")
        ]

    @property
    def expected(self) -> bytes:
        return list_of(one.ip for one in self.backends if one.up)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        lb = await loop.create_server(lambda: _Http(self._clients, self._say), "127.0.0.1", 0)
        self._servers.append(lb)
        self.port = lb.sockets[0].getsockname()[1]
        await self._grow(3)
        self.publish()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for one in [*self._clients, *self._readers]:
            one.end()
        for _ in range(10):
            await asyncio.sleep(0)

    def _say(self) -> bytes | None:
        return self.answer(self.expected)

    async def _grow(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            one = Backend(f"id{next(self._pids)}", next(_addresses))
            one.server = await loop.create_server(
                partial(_Http, self._readers, partial(_list_of, one)), one.ip, 8080
            )
            self._servers.append(one.server)
            self.backends.append(one)

    def publish(self) -> None:
        for one in self.backends:
            one.served = self.expected

    def change(self, key: str) -> None:
        """Something was done: the list follows, and what a test hangs on it happens."""
        self.done.append(key)
        self.generation += 1
        if key in self.during:
            self.during[key]()
        else:
            self.publish()

    def one(self, backend_id: str) -> Backend:
        return next(one for one in self.backends if one.id == backend_id)

    # Admin

    async def status_text(self) -> str:
        return json.dumps(
            {
                "generation": self.generation,
                "replicas": self.replicas,
                "leader": self.lbs[0],
                "rollout": {"revision": self.revision, "state": self.rollout_state, "message": "m"},
                "processes": self.processes,
                "settings": self.settings | {"another": 1},
                "backends": [
                    {
                        "id": one.id, "name": f"web-{one.id}", "ip": one.ip, "port": 8080,
                        "state": one.state, "reason": self.reason,
                        "published_generation": self.generation,
                    }
                    for one in self.backends
                ],
            }
        )  # fmt: skip

    async def metrics_text(self) -> str:
        lines = [f'lbctl_retries_total{{backend="a"}} {len(self.done)}.0']
        workers = [row["name"] for row in self.processes if row["role"] == "worker"]
        share = 4 // len(workers)
        lines += [f'lbctl_worker_connections{{worker="{one}"}} {share}.0' for one in workers]
        return "\n".join([*lines, ""])

    async def scale(self, replicas: int) -> None:
        self.backends = [one for one in self.backends if one.up][:replicas]
        await self._grow(replicas - len(self.backends))
        self.replicas = replicas
        self.change(f"scale {replicas}")

    async def drain(self, backend_id: str) -> None:
        self._must_have("drain")
        self.one(backend_id).state = "draining"
        self.change("drain")

    async def undrain(self, backend_id: str) -> None:
        self._must_have("drain")
        self.one(backend_id).state = "up"
        self.change("undrain")

    async def rollout(self) -> int:
        self._must_have("rollout")
        count = len(self.backends)
        await self._grow(count)
        del self.backends[:count]
        self.revision += 1
        self.change("rollout")
        return self.revision

    async def reload(self, settings: Mapping[str, Any]) -> None:
        self._must_have("reload")
        self.settings |= settings
        for row in self.processes:
            if row["role"] == "worker" and "worker" not in self.keeps:
                row["pid"] = next(self._pids)
        self.change(" ".join(["reload", *(str(value) for value in settings.values())]))

    @property
    def reason(self) -> str:
        failing = self.settings["probe_status"] == "299" and not self.deaf
        return "answers another status" if failing else ""

    def _must_have(self, what: str) -> None:
        if what in self.lacks:
            raise UnsupportedError(f"POST {what}: Not Found")

    # Hands

    async def kill_backend(self, backend: Seat) -> None:
        self.one(backend.id).state = "down"
        self.change("kill-backend")

    def cannot_stop(self) -> str:
        return "" if self.stoppable else "nobody can"

    async def stop_backend(self, backend: Seat) -> None:
        self.one(backend.id).state = "down"
        self.change("stop-backend")

    async def revive_backend(self, backend: Seat) -> None:
        if not self.dead_forever:
            self.one(backend.id).state = "up"
        self.change("revive-backend")

    async def pause_backend(self, backend: Seat) -> None:
        self.one(backend.id).state = "down"
        self.change("pause-backend")

    async def resume_backend(self, backend: Seat) -> None:
        self.one(backend.id).state = "up"
        self.change("resume-backend")

    async def kill_process(self, process: Process) -> None:
        for row in self.processes:
            if (row["lb"], row["pid"]) == (process.lb, process.pid):
                row["pid"] = next(self._pids)
        self.change(f"kill-{process.role}")

    async def kill_lb(self, lb: str) -> None:
        self.change(f"kill-lb {lb}")

    async def revive_lb(self, lb: str) -> None:
        self.change(f"revive-lb {lb}")

    def cannot_upgrade(self) -> str:
        return "" if self.upgradable else "nobody can"

    async def upgrade(self) -> None:
        for row in self.processes:
            if row["role"] not in self.keeps:
                row["started_at"] = "now"
        self.change("upgrade")

    async def has_guard(self) -> bool:
        return self.guard

    async def kill_guard(self) -> None:
        self.change("kill-guard")

    async def revive_guard(self) -> None:
        self.change("revive-guard")

    async def cannot_restart_engine(self) -> str:
        return self.unrestartable

    async def restart_engine(self) -> None:
        self.change("restart-engine")

    # What breaks

    def hang(self) -> None:
        """The lb says nothing any more."""
        self.answer = lambda _: None

    def go_on(self) -> None:
        """It answers again, also those who waited."""
        self.answer = whole
        for one in self._clients:
            one.go_on()

    @property
    def waiting(self) -> int:
        """Connections that have asked, and have no answer."""
        return sum(bool(one.asked) for one in self._clients)

    def break_off(self, most: int = 1_000) -> None:
        """The lb's side of so many connections that wait for an answer goes, as when a process
        dies.
        """
        for one in [one for one in self._clients if one.asked][:most]:
            one.end()

    def refuse(self) -> None:
        """The lb's address is gone, for the rest of the run."""
        self._servers[0].close()
        for one in list(self._clients):
            one.end()


class _Http(asyncio.Protocol):
    """Answers each head with what `say` says; None is silence."""

    def __init__(self, open_: set[_Http], say: Callable[[], bytes | None]) -> None:
        self._open = open_
        self._say = say
        self.asked = b""

    def end(self) -> None:
        self._transport.abort()

    def go_on(self) -> None:
        said = self._say()
        if not self.asked or said is None:
            return
        head, _, body = said.partition(b"\r\n\r\n")
        self._transport.write(head + b"\r\n\r\n" + (b"" if self.asked[:4] == b"HEAD" else body))
        self.asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._open.discard(self)

    def data_received(self, data: bytes) -> None:
        self.asked = data
        self.go_on()


def _list_of(one: Backend) -> bytes:
    return whole(one.served)


def whole(body: bytes, status: bytes = b"200 OK", served_by: str = "") -> bytes:
    """An answer as it should be."""
    field_ = f"X-Served-By: {served_by}\r\n".encode() if served_by else b""
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, field_, len(body), body)


@dataclass
class Notes:
    """Implements verify's Timeline."""

    titles: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def begins(self, title: str, load: Load) -> None:  # noqa: ARG002 - the Timeline's
        self.titles.append(title)

    def row(self, row: Row) -> None:
        self.rows.append(row)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@contextlib.asynccontextmanager
async def started(stack: Stack) -> AsyncIterator[Stack]:
    await stack.start()
    try:
        yield stack
    finally:
        await stack.close()


async def run(stack: Stack, notes: Notes | None = None) -> Verdict:
    """Verify it, as fast as it goes."""
    options = Options("127.0.0.1", stack.port, seconds=0, connections=4, rate=500)
    return await verify(options, stack, stack, notes or Notes())
