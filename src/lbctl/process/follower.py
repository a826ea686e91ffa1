"""What the controller of an lb does while another one leads: it says which processes it has, and
reloads when it is told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from lbctl.errors import OperationError
from lbctl.process import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.paths import Paths
    from lbctl.process.host import SupervisorClient

_log = logging.getLogger("lbctl.controller")

_RECONNECT_S = 0.1


async def follow(
    lb: str,
    settings: str,
    paths: Paths,
    supervisor: SupervisorClient,
    followed: Callable[[], None],
) -> None:
    """Until cancelled, whoever leads. `settings` is the digest of this lb's: a leader that has
    others, because this one missed a reload, asks for it now. `followed` is called whenever one was
    found.
    """
    greeting = {"peer": lb, "settings": settings}
    while True:
        with contextlib.suppress(OSError, ValueError):
            await _follow_one(greeting, paths, supervisor, followed)
        await asyncio.sleep(_RECONNECT_S)


async def _follow_one(
    greeting: dict[str, str],
    paths: Paths,
    supervisor: SupervisorClient,
    followed: Callable[[], None],
) -> None:
    reader, writer = await asyncio.open_unix_connection(
        str(paths.workers_socket), limit=wire.LINE_LIMIT_BYTES
    )
    telling: asyncio.Task[None] | None = None
    try:
        writer.write(wire.encode(greeting))
        followed()
        telling = asyncio.create_task(_tell(supervisor, writer))
        while line := await reader.readline():
            if "reload" in wire.decode(line):
                writer.write(wire.encode({"reloaded": await _reload(supervisor)}))
    finally:
        if telling is not None:
            telling.cancel()
        writer.close()


async def _tell(supervisor: SupervisorClient, writer: asyncio.StreamWriter) -> None:
    async for processes in supervisor.process_changes():
        writer.write(wire.encode({"processes": wire.process_rows(processes)}))


async def _reload(supervisor: SupervisorClient) -> str:
    """The error, or ""."""
    try:
        await supervisor.reload()
    except OperationError as error:
        _log.error("not reloaded: %s", error)
        return str(error)
    return ""
