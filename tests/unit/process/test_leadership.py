"""One leads; whoever waits takes over when it is gone, however it went."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from lbctl.errors import OperationError
from lbctl.process.leadership import Leadership
from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from pathlib import Path


def leader_in_another_process(path: Path) -> int:
    """Its pid, as soon as it leads."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:

        async def lead() -> None:
            await Leadership(path).acquire()
            os.write(writing, b"!")
            signal.pause()

        try:
            asyncio.run(lead())
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"!"
    os.close(reading)
    return pid


async def test_the_next_one_leads_as_soon_as_the_last_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "leader.lock"
    first = leader_in_another_process(path)
    second = Leadership(path)
    waiting = asyncio.create_task(second.acquire())
    try:
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
    finally:
        os.kill(first, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, first, 0)
    async with asyncio.timeout(scaled(1)):
        await waiting


def test_where_there_can_be_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperationError, match="cannot use"):
        Leadership(tmp_path / "file" / "lock")
