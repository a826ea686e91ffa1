"""What is shown beside a wait changes nothing of what is waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from lbctl.cli import progress
from lbctl.cli.progress import passing, watched
from lbctl.errors import OperationError
from tests.support.deadlines import eventually
from tests.support.told import Told

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from lbctl.cli.client import AdminClient, Status
    from lbctl.cli.screen import Steps


class Looked:
    """An admin client whose status is the number of looks at it; each third fails."""

    def __init__(self) -> None:
        self.looks = 0

    async def status(self) -> int:
        self.looks += 1
        if self.looks % 3 == 0:
            raise OperationError("not now")
        return self.looks


@pytest.fixture(autouse=True)
def no_time_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_INTERVAL_S", 0.001)


async def test_a_look_that_fails_is_left_out() -> None:
    seen: list[int] = []
    async with watching(seen.append):
        await eventually(lambda: len(seen) >= 6)
    assert seen[:6] == [1, 2, 4, 5, 7, 8]
    looked = len(seen)
    await asyncio.sleep(0.01)
    assert len(seen) == looked


async def test_the_block_has_its_own_outcome() -> None:
    async def change(error: str) -> str:
        async with watching(broken):
            await asyncio.sleep(0.01)
            if error:
                raise OperationError(error)
        return "done"

    assert await change("") == "done"
    with pytest.raises(OperationError, match="no such backend"):
        await change("no such backend")


async def test_a_command_that_is_cancelled_ends() -> None:
    begun = asyncio.Event()

    async def command() -> None:
        async with watching(lambda _: begun.set()):
            await asyncio.Event().wait()

    running = asyncio.create_task(command())
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_time_that_passes() -> None:
    told = Told()
    async with passing(cast("Steps", told), 0.5, "at least half a second"):
        await eventually(lambda: told.parts and told.parts[-1][0] > 0.6)
    assert told.parts[0][1:] == (0.5, "0 of at least half a second")
    assert told.parts[-1][2] == "1 of at least half a second"


def watching(show: Callable[[int], None]) -> AbstractAsyncContextManager[None]:
    return watched(cast("AdminClient", Looked()), cast("Callable[[Status], None]", show))


def broken(_: int) -> None:
    raise ZeroDivisionError
