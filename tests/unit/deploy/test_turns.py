"""Commands that would be in each other's way wait for each other."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from lbctl.deploy.turns import make_base, opened, turn
from lbctl.errors import DeadlineError, OperationError, UsageError
from tests.support.deadlines import eventually, scaled
from tests.support.told import Told

if TYPE_CHECKING:
    from pathlib import Path


async def test_one_after_the_other_and_who_waits_is_told_so(tmp_path: Path) -> None:
    order: list[str] = []
    told = {"first": Told(), "second": Told()}
    may_end = asyncio.Event()

    async def command(name: str) -> None:
        async with turn(opened(tmp_path / "lock"), "shop", told[name], within_s=scaled(10)):
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
    assert told["second"].notes == [
        "waiting for another lbctl up, upgrade or down of project 'shop'"
    ]


async def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    async with turn(opened(tmp_path / "lock"), "shop", Told(), within_s=0):
        with pytest.raises(
            DeadlineError, match=r"^another lbctl up, upgrade or down of project 'shop' is"
        ):
            async with turn(opened(tmp_path / "lock"), "shop", Told(), within_s=0.05):
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
    async with turn(opened(tmp_path / "lock"), "shop", Told(), within_s=scaled(10)):
        pass
    await other.wait()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match=r"^cannot use .*/none: No such file"):
        opened(tmp_path / "none" / "lock")


def test_nobody_else_can_open_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch(0o644)
    with opened(lock):
        assert lock.stat().st_mode & 0o777 == 0o600
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperationError):
        opened(lock)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_link_of_somebody_else_is_no_directory_of_ours(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    make_base(link)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    with pytest.raises(UsageError, match="open to other users"):
        make_base(link)
