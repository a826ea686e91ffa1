"""Backends that are processes, and a host that only remembers what it was to run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from lbctl.errors import EngineError, OperationError
from lbctl.model import Phase, Release
from lbctl.paths import Paths
from lbctl.ports import Program
from lbctl.runtime import local
from lbctl.runtime.local import LocalRuntime
from lbctl.runtime.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lbctl.ports import ProgramHost

RELEASE = Release()


class Host:
    def __init__(self) -> None:
        self.running: dict[str, Sequence[str]] = {}
        self.refused = ""

    async def run(self, name: str, argv: Sequence[str], log: Path) -> None:  # noqa: ARG002
        await asyncio.sleep(0)
        if name == self.refused:
            raise OperationError("no more processes")
        self.running[name] = argv

    async def stop(self, name: str, signal_number: int, grace_s: float) -> None:  # noqa: ARG002
        self.running.pop(name, None)

    def programs(self) -> list[Program]:
        return [Program(name, 1, True, 0) for name in self.running]


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[Nginx]:
    """Each time that somebody looked for an nginx."""
    found: list[Nginx] = []

    def find() -> Nginx:
        found.append(Nginx("/usr/sbin/nginx", "1.22.1"))
        return found[-1]

    monkeypatch.setattr(local, "find_nginx", find)
    return found


def runtime(tmp_path: Path, host: Host) -> LocalRuntime:
    return LocalRuntime("shop", Paths(tmp_path, tmp_path / "secrets"), cast("ProgramHost", host))


async def test_many_at_once_leave_the_loop_to_others(
    tmp_path: Path, host: Host, looked: list[Nginx]
) -> None:
    """Or the controller's heart would seem to stand still."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    made = await runtime(tmp_path, host).start(40, RELEASE)
    counting.cancel()
    assert len(set(made)) == len(host.running) == 40
    assert turns > 40
    assert len(looked) == 1


async def test_who_is_asked_for_at_once_is_one_of_a_kind(
    tmp_path: Path, host: Host, looked: list[Nginx]
) -> None:
    it = runtime(tmp_path, host)
    await asyncio.gather(it.start(5, RELEASE), it.start(5, RELEASE))
    backends = [instance.backend for instance in await it.list() if instance.backend]
    assert len({backend.name for backend in backends}) == 10
    assert len({backend.ip for backend in backends}) == 10
    assert len(looked) == 2


async def test_one_that_cannot_be_started_takes_the_others_along(
    tmp_path: Path, host: Host, looked: list[Nginx]
) -> None:
    host.refused = "shop-backend-3"
    it = runtime(tmp_path, host)
    with pytest.raises(EngineError, match="no more processes"):
        await it.start(4, RELEASE)
    assert await it.list() == []
    assert host.running == {}
    assert list((tmp_path / "backends").iterdir()) == []
    assert looked


async def test_those_of_a_supervisor_that_was_killed_are_run_again(
    tmp_path: Path, host: Host, looked: list[Nginx]
) -> None:
    await runtime(tmp_path, host).start(3, RELEASE)
    before = dict(host.running)
    del before["shop-backend-2"]
    host.running = {"shop-backend-2": ()}
    looked.clear()
    after = runtime(tmp_path, host)
    assert {one.name: one.phase for one in await after.list()} == {
        "shop-backend-1": Phase.EXITED,
        "shop-backend-2": Phase.RUNNING,
        "shop-backend-3": Phase.EXITED,
    }
    await after.recover()
    assert {name: argv for name, argv in host.running.items() if argv} == before
    assert len(looked) == 1
    await after.recover()
    assert len(looked) == 1
