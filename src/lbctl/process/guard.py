"""The guard: alone holds the engine's socket, on no network. It sees to it that pod and lbs run,
and lets the lbs ask the engine for what is on its list, and for nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING

from lbctl import tokens
from lbctl.errors import OperationError
from lbctl.guard.keeper import keep
from lbctl.guard.server import GuardServer
from lbctl.paths import CONTAINER, GUARD_SOCKET
from lbctl.process import logs, output

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

_log = logging.getLogger("lbctl.guard")

_RETRY_S = 1.0
_LOOK_S = 3.0  # between looks at who listens at the socket


def main(project: str, image: str) -> int:
    """Run until SIGTERM or SIGINT. `image` is what backends are made from. Returns the exit
    status.
    """
    output.never_block()
    logs.set_up("guard")
    asyncio.run(_run(project, image))
    return 0


async def _run(project: str, image: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await _first_of(stop.wait(), keep(project), _serve(project, image))


async def _serve(project: str, image: str) -> None:
    """For ever."""
    server = GuardServer(
        project,
        image,
        lambda: tokens.read(CONTAINER.admin_token),
        lambda: tokens.retiring(CONTAINER),
    )
    while True:
        try:
            await server.start(GUARD_SOCKET)
            break
        except OperationError as error:  # without it, pod and lbs are kept all the same
            _log.error("%s; trying again", error)
            await asyncio.sleep(_RETRY_S)
    try:
        with contextlib.suppress(OSError):
            CONTAINER.ready.touch()
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await server.keep_place()
            except OperationError as error:
                _log.error("%s; trying again", error)
    finally:
        await server.close()


async def _first_of(*jobs: Coroutine[Any, Any, Any]) -> None:
    """Until one of them ends; raises what it raised."""
    tasks = {asyncio.ensure_future(job) for job in jobs}
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
