"""Commands that would be in each other's way wait for each other."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

from lbctl.deploy.turns import turn
from lbctl.errors import DeadlineError, OperationError
from tests.support.deadlines import eventually, scaled

if TYPE_CHECKING:
    from pathlib import Path


class Told:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def log(self, line: str) -> None:
        raise NotImplementedError(line)


async def test_one_after_the_other_and_who_waits_is_told_so(tmp_path: Path) -> None:
    order: list[str] = []
    told = {"first": Told(), "second": Told()}
    may_end = asyncio.Event()

    async def command(name: str) -> None:
        async with turn(tmp_path / "lock", "shop", told[name], within_s=scaled(10)):
            order.append(name)
            if name == "first":
                await may_end.wait()
            order.append(f"{name} ended")

    async with asyncio.TaskGroup() as group:
        group.create_task(command("first"))
        await eventually(lambda: order)
        group.create_task(command("second"))
        await eventually(lambda: told["second"].notes)
        may_end.set()
    assert order == ["first", "first ended", "second", "second ended"]
    assert told["first"].notes == []
    assert told["second"].notes == ["waiting for another lbctl up or down of project 'shop'"]


async def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    async with turn(tmp_path / "lock", "shop", Told(), within_s=0):
        with pytest.raises(DeadlineError, match=r"^another lbctl up or down of project 'shop' is"):
            async with turn(tmp_path / "lock", "shop", Told(), within_s=0.05):
                pass


async def test_nobody_waits_for_one_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'a');"
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(600)"
    )
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path / "lock"), stdout=asyncio.subprocess.PIPE
    )
    assert other.stdout is not None
    assert await other.stdout.readline() == b"held\n"
    asyncio.get_running_loop().call_later(0.05, other.kill)
    async with turn(tmp_path / "lock", "shop", Told(), within_s=scaled(10)):
        pass
    await other.wait()


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match=r"^cannot use .*/none: No such file"):
        async with turn(tmp_path / "none" / "lock", "shop", Told(), within_s=1):
            pass
