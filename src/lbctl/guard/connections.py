"""The guard's socket and its connections: how much of a head there may be, how long it may take,
and how long a reader may not read.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from aiohttp.http_exceptions import HttpProcessingError

from lbctl import sockets
from lbctl.errors import OperationError
from lbctl.timed import TimedHandler

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from aiohttp import web

    from lbctl.sockets import Place

_log = logging.getLogger("lbctl.guard")

_HEAD_LINE_BYTES: Final = 4096
_HEAD_FIELDS: Final = 32
_HEAD_S: Final = 5.0
_READER_S: Final = 5.0  # for a reader that does not read
_ANSWER_S: Final = 1.0  # for whoever listens to take a connection


class Connection(TimedHandler):
    """One that is read with limits. `no_http` answers what aiohttp cannot read."""

    def __init__(self, server: web.Server, no_http: Callable[[], web.Response]) -> None:
        super().__init__(
            server,
            head_s=_HEAD_S,
            write_s=_READER_S,
            access_log=None,
            max_line_size=_HEAD_LINE_BYTES,
            max_field_size=_HEAD_LINE_BYTES,
            max_headers=_HEAD_FIELDS,
            auto_decompress=False,
            lingering_time=0.0,
        )
        self._no_http = no_http

    def leave_reader(self) -> None:
        _log.warning("who asked does not read the answer: the connection is closed")
        super().leave_reader()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Called for errors of the program, too: those go on as they are."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        response = self._no_http()
        response.force_close()
        return response


class Closed(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def listen(path: Path, backlog: int) -> tuple[socket.socket, Place]:
    """Root's alone, in a directory that is root's alone. Raises OperationError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
    except OSError as error:
        raise OperationError(f"cannot listen on {path}: {error.strerror or error}") from None
    return sockets.listen(path, 0o600, backlog)


async def listens(path: Path) -> bool:
    """Whether anybody takes connections there. Who is slow about it is somebody."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_unix_connection(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError:
        return True
    writer.close()
    return True
