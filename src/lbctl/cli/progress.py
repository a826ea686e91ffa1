"""How far something is that is waited for: by looks at the lb's status, or by the time it takes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from lbctl.errors import LbctlError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from lbctl.cli.client import AdminClient, Status
    from lbctl.cli.screen import Steps

LOOK_INTERVAL_S: Final = 0.2


@contextlib.asynccontextmanager
async def watched(client: AdminClient, show: Callable[[Status], None]) -> AsyncIterator[None]:
    """Give `show` the status again and again, while the block runs."""

    async def look() -> None:
        while True:
            # A look that fails is no reason to give up: the change has its own answer.
            with contextlib.suppress(LbctlError):
                show(await client.status())
            await asyncio.sleep(LOOK_INTERVAL_S)

    async with _beside(look()):
        yield


@contextlib.asynccontextmanager
async def passing(steps: Steps, seconds: float, whole: str) -> AsyncIterator[None]:
    """Show the time that has passed, while the block runs that takes so long: `whole`, in words."""
    began_s = time.monotonic()

    async def tick() -> None:
        while True:
            done_s = time.monotonic() - began_s
            steps.part(done_s, seconds, f"{done_s:.0f} of {whole}")
            await asyncio.sleep(LOOK_INTERVAL_S)

    async with _beside(tick()):
        yield


@contextlib.asynccontextmanager
async def _beside(job: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    running = asyncio.create_task(job)
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait((running,))  # however it ended: the block has its own outcome
