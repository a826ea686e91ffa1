"""What a controller does when it comes to lead, and what it waits for."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import pytest

from lbctl.config import Config
from lbctl.control.store import JsonFile
from lbctl.core.history import Event, Kind, Span
from lbctl.core.saved import Saved, to_document
from lbctl.errors import OperationError
from lbctl.model import Backend, Member, Membership, Process
from lbctl.paths import Paths
from lbctl.process.controller import Controller, Reloader, catch_up, tell_processes
from tests.support.deadlines import eventually, scaled
from tests.unit.process.scripted import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from lbctl.control.scaler import Scaler
    from lbctl.ports import Traffic
    from lbctl.process.host import SupervisorClient
    from lbctl.process.hub import Hub

WHEN = datetime(2026, 11, 27, tzinfo=UTC)


class Workers:
    """The hub, as far as it tells how many workers are connected."""

    def __init__(self) -> None:
        self.asked = 0
        self.there = asyncio.Event()

    async def connected(self, count: int, deadline_s: float) -> None:
        self.asked = count
        await asyncio.wait_for(self.there.wait(), scaled(deadline_s * 5))


class Backends:
    """The scaler."""

    def __init__(self) -> None:
        self.runs = asyncio.Event()

    async def run(self) -> None:
        self.runs.set()


async def test_a_saved_list_is_in_the_history_before_it_is_published(tmp_path: Path) -> None:
    """One that was killed had saved it, and not told of it yet."""
    paths = Paths(tmp_path, tmp_path / "secrets")
    members = (Member(Backend("id-1", "b-1", "10.0.0.1"), WHEN),)
    JsonFile(paths.membership).save(to_document(Saved(Membership(2, WHEN, members), 5)))
    controller = Controller(Config(), paths, "", ())
    reloader = Reloader(Config(), paths, cast("SupervisorClient", None), cast("Hub", None))
    journal = controller._journal(reloader, JsonFile(paths.membership))
    try:
        assert json.loads((paths.memberships / "latest").read_text())["generation"] == 2
        await journal.settled(scaled(5))
        (one,) = await journal.lists(Span(10))
        assert (one.record.generation, one.members[0]["name"]) == (2, "b-1")
    finally:
        await journal.close()


@pytest.mark.parametrize("saved", [None, {}, "no object"])
async def test_a_saved_list_that_is_none_ends_nothing(tmp_path: Path, saved: object) -> None:
    paths = Paths(tmp_path, tmp_path / "secrets")
    JsonFile(paths.membership).save(saved)
    controller = Controller(Config(), paths, "", ())
    reloader = Reloader(Config(), paths, cast("SupervisorClient", None), cast("Hub", None))
    journal = controller._journal(reloader, JsonFile(paths.membership))
    try:
        await journal.settled(scaled(5))
        assert [one.kind for one in await journal.records(Span(10))] == ["leader"]
    finally:
        await journal.close()


@pytest.mark.parametrize(("lb", "wanted"), [("", 2), ("a", 4)])
async def test_nothing_is_scaled_before_the_workers_of_all_lbs_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lb: str, wanted: int
) -> None:
    """Who asks nobody whether a backend is idle is told that it is."""
    monkeypatch.setattr("lbctl.process.controller._worker_processes", lambda _: 2)
    workers, backends = Workers(), Backends()
    controller = Controller(Config(), Paths(tmp_path, tmp_path), lb, ())
    scaling = asyncio.create_task(
        controller.scale_when_served(cast("Hub", workers), cast("Scaler", backends))
    )
    await asyncio.sleep(0)
    assert workers.asked == wanted
    assert not backends.runs.is_set()
    workers.there.set()
    await scaling
    assert backends.runs.is_set()


class Reloads:
    """This lb's supervisor."""

    def __init__(self, problem: str = "") -> None:
        self.count = 0
        self._problem = problem

    async def reload(self) -> None:
        self.count += 1
        if self._problem:
            raise OperationError(self._problem)


@pytest.mark.parametrize(
    ("kept", "reloads"),
    [
        (None, 0),
        ({}, 0),
        ({"fall": 3}, 0),  # what it has anyway
        ({"fall": 7}, 1),
        ({"fall": 3, "probe_status": "299"}, 1),
    ],
)
async def test_a_leader_that_missed_a_reload_catches_up(
    tmp_path: Path, kept: dict[str, object] | None, reloads: int
) -> None:
    paths, supervisor = Paths(tmp_path, tmp_path), Reloads()
    if kept is not None:
        paths.serve.write_text(json.dumps(kept))
    await catch_up(Config(), paths, cast("SupervisorClient", supervisor))
    assert supervisor.count == reloads


@pytest.mark.parametrize("text", ['{"fall": 7}', '{"fall": "many"}', "{", "[]"])
async def test_one_that_cannot_catch_up_leads_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    paths, supervisor = Paths(tmp_path, tmp_path), Reloads("the new workers do not serve")
    paths.serve.write_text(text)
    await catch_up(Config(), paths, cast("SupervisorClient", supervisor))
    assert "goes on with the settings it has" in caplog.text


async def test_it_is_ready_as_soon_as_it_knows_its_place(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path / "secrets")
    ready = asyncio.Event()
    lone = Controller(Config(), paths, "", ())
    async with asyncio.timeout(scaled(5)):
        await lone._lead(ready.set)
    assert ready.is_set()  # it leads

    ready.clear()
    second = Controller(Config(), paths, "b", ())
    second._supervisor = cast("SupervisorClient", NoProcesses())
    leading = asyncio.create_task(second._lead(ready.set))
    async with serving(paths) as hub:
        await eventually(lambda: hub.peers.lbs == ["b"])
        async with asyncio.timeout(scaled(5)):
            await ready.wait()  # it follows
    assert not leading.done()
    leading.cancel()


class NoProcesses:
    """A supervisor's client."""

    async def process_changes(self) -> AsyncIterator[list[Process]]:
        yield []

    async def reload(self) -> None:
        pass


class Processes:
    """ports.Traffic, as far as it tells which processes there are."""

    def __init__(self, *pids: int) -> None:
        self.pids = pids
        self.others: list[Process] = []

    def processes(self) -> list[Process]:
        own = [Process("worker", f"w-{i}", pid, 0, WHEN) for i, pid in enumerate(self.pids)]
        return own + self.others


async def test_the_history_hears_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbctl.process.controller._PROCESSES_S", 0.01)
    processes, told = Processes(11, 12), list[Event]()
    telling = asyncio.create_task(tell_processes(cast("Traffic", processes), told.append))
    await asyncio.sleep(0)
    processes.pids = (11, 22)
    await eventually(lambda: len(told) == 1)
    processes.pids = (11,)
    await eventually(lambda: len(told) == 2)
    ahead = datetime.now(UTC) + timedelta(seconds=1)
    processes.others = [
        Process("worker", "b/w-0", 31, 0, WHEN, "b"),  # known only now
        Process("worker", "b/w-1", 32, 0, ahead, "b"),
    ]
    await eventually(lambda: len(told) == 3)
    telling.cancel()
    assert [(one.kind, one.subject, one.text) for one in told] == [
        (Kind.PROCESS, "w-1", "started again, in the place of pid 12"),
        (Kind.PROCESS, "w-1", "ended"),
        (Kind.PROCESS, "b/w-1", "started"),
    ]
