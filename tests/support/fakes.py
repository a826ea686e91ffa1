"""Fakes of the ports, for tests of whoever stands on the other side of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lbctl.errors import EngineError, OperationError
from lbctl.model import Backend, Instance, Phase, ProbeResult
from lbctl.ports import Change

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from lbctl.errors import LbctlError
    from lbctl.model import Membership, Release, Snapshot


def running(name: str, ip: str = "", **changes: Any) -> Instance:
    """An instance as a runtime lists it; `changes` go to the Instance."""
    backend = Backend(name, name, ip or f"10.0.0.{ord(name[-1])}")
    return replace(Instance(name, name, Phase.RUNNING, backend), **changes)


class FakeRuntime:
    """A runtime in memory. `instances` is its list; `emit` sends a hint to every watcher."""

    name = "fake"

    def __init__(self, *instances: Instance) -> None:
        self.instances = {instance.id: instance for instance in instances}
        self.lists = 0
        self.watches = 0
        self.graces: dict[str, float] = {}  # by id: how each was stopped
        self.list_error: LbctlError | None = None
        self.start_error: EngineError | None = None
        self.start_errors: dict[str, LbctlError] = {}  # by image
        self.phases: dict[str, Phase] = {}  # by image: what becomes of its containers
        self.said: dict[str, list[str]] = {}  # by id: lines of its log
        self.stop_errors: dict[str, EngineError] = {}
        self.may_list = asyncio.Event()
        self.may_list.set()
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.may_subscribe = asyncio.Event()
        self.may_subscribe.set()
        self.calls: list[str] = []
        self._hints: asyncio.Queue[Change | None] = asyncio.Queue()
        self._named = 0

    def emit(self, action: str, instance_id: str = "", *, leaving: bool = False) -> None:
        self._hints.put_nowait(Change(action, instance_id, leaving))

    def cut(self) -> None:
        """The event stream ends."""
        self._hints.put_nowait(None)

    def put(self, instance: Instance, action: str = "start") -> None:
        self.instances[instance.id] = instance
        self.emit(action, instance.id)

    async def start(self, count: int, release: Release) -> list[str]:
        self.calls.append(f"start {count}")
        await self.may_start.wait()
        error = self.start_errors.get(release.image, self.start_error)
        if error is not None:
            raise error
        ids = []
        for _ in range(count):
            self._named += 1
            name = f"own-{self._named}"
            newcomer = running(
                name, ip=f"10.0.1.{self._named}", revision=release.revision, image=release.image
            )
            self.put(replace(newcomer, phase=self.phases.get(release.image, Phase.RUNNING)))
            ids.append(name)
        return ids

    async def stop(self, instance_id: str, grace_s: float) -> None:
        if instance_id in self.stop_errors:
            raise self.stop_errors[instance_id]
        self.instances.pop(instance_id, None)
        self.graces[instance_id] = grace_s
        self.calls.append(f"stop {instance_id}")
        self.emit("destroy", instance_id)

    async def last_lines(self, instance_id: str, count: int) -> Sequence[str]:
        return self.said.get(instance_id, [])[-count:]

    async def list(self) -> list[Instance]:
        self.calls.append("list")
        self.lists += 1
        seen = list(self.instances.values())
        await self.may_list.wait()
        if self.list_error is not None:
            raise self.list_error
        return seen

    async def watch(self) -> AsyncIterator[Change]:
        self.watches += 1
        await self.may_subscribe.wait()
        self.calls.append("subscribed")
        yield Change("subscribed")
        while (change := await self._hints.get()) is not None:
            yield change

    async def close(self) -> None:
        pass


class FakeProbe:
    """Passes, except for the names in `failing`."""

    def __init__(self) -> None:
        self.failing: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    async def __call__(self, backend: Backend) -> ProbeResult:
        self.counts[backend.name] = self.counts.get(backend.name, 0) + 1
        return ProbeResult(self.failing.get(backend.name, ""), 0.001)


class FakeWriter:
    """Keeps what was written to each backend, by name."""

    def __init__(self) -> None:
        self.held: dict[str, Membership] = {}
        self.writes: list[tuple[str, int]] = []
        self.failing: dict[str, str] = {}
        self.gates: dict[str, asyncio.Event] = {}  # a write to that name waits for it
        self.in_flight = 0
        self.most_in_flight = 0
        self.checks = 0

    async def write(self, backend: Backend, membership: Membership) -> None:
        self.writes.append((backend.name, membership.generation))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if backend.name in self.gates:
                await self.gates[backend.name].wait()
            if backend.name in self.failing:
                raise OperationError(self.failing[backend.name])
            await asyncio.sleep(0)
            self.held[backend.name] = membership
        finally:
            self.in_flight -= 1

    async def holds(self, backend: Backend, membership: Membership) -> bool:
        self.checks += 1
        if backend.name in self.failing:
            raise OperationError(self.failing[backend.name])
        return self.held.get(backend.name) == membership

    def ips(self, name: str) -> list[str]:
        """What this backend would serve."""
        return [member.backend.ip for member in self.held[name].members]


class FakeRoutes:
    """Workers that obey at once; `busy` is what they still have in flight, by id."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.busy: dict[str, int] = {}
        self.deadlines: dict[str, float] = {}  # by id: how long somebody would wait

    def route(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    async def unrouted(self, backend_id: str, deadline_s: float) -> int:
        assert backend_id not in self.routed
        self.deadlines[backend_id] = deadline_s
        return self.busy.get(backend_id, 0)

    def in_flight(self, backend_id: str) -> int:
        return self.busy.get(backend_id, 0)

    @property
    def routed(self) -> Sequence[str]:
        """Names on the last snapshot."""
        return [b.name for b in self.snapshots[-1].routes] if self.snapshots else []


class MemoryStore:
    """A store that forgets nothing, and nothing outlives."""

    def __init__(self, document: Any = None) -> None:
        self.document = document
        self.saves = 0

    def load(self) -> Any:
        return self.document

    def save(self, document: Any) -> None:
        self.document = document
        self.saves += 1
