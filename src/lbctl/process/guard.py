"""The guard: alone holds the engine's socket, on no network. It sees to it that pod and lbs run,
and lets the lbs ask the engine for what is on its list, and for nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

from lbctl import tokens
from lbctl.control.tasks import first_of
from lbctl.errors import OperationError
from lbctl.guard.keeper import keep
from lbctl.guard.server import GuardServer
from lbctl.paths import CONTAINER, GUARD_SOCKET
from lbctl.process import logs, output

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
    await first_of(stop.wait(), keep(project), _serve(project, image))


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
