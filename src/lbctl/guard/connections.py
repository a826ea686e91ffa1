"""The guard's socket and its connections: how much of a head there may be, how long it may take,
and how long a reader may not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from lbctl.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger("lbctl.guard")

_HEAD_LINE_BYTES: Final = 4096
_HEAD_FIELDS: Final = 32
_HEAD_S: Final = 5.0
_READER_S: Final = 5.0  # for a reader that does not read
_ANSWER_S: Final = 1.0  # for whoever listens to take a connection


class Connection(web.RequestHandler):
    """One that is read with limits. `no_http` answers what aiohttp cannot read. The server says
    when a request `begins` and `ends`.
    """

    def __init__(self, server: web.Server, no_http: Callable[[], web.Response]) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # which is its word for none
            max_line_size=_HEAD_LINE_BYTES,
            max_field_size=_HEAD_LINE_BYTES,
            max_headers=_HEAD_FIELDS,
            auto_decompress=False,
            lingering_time=0.0,
        )
        self._no_http = no_http
        self._end: asyncio.BaseTransport | None = None  # aiohttp forgets one that it has closed
        self._timer: asyncio.TimerHandle | None = None  # for a head
        self._write_timer: asyncio.TimerHandle | None = None
        self._working = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._end = transport
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if data and not self._working:
            self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_head()
        self._may_write()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            loop = asyncio.get_running_loop()
            self._write_timer = loop.call_later(_READER_S, self._leave_reader)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._may_write()

    def begins(self) -> None:
        """A whole head is there."""
        self._forget_head()
        self._working = True

    def ends(self) -> None:
        """Its answer is about to be sent."""
        self._working = False

    def abort(self) -> None:
        """End it now, whatever is under way."""
        if isinstance(self._end, asyncio.Transport):
            self._end.abort()

    def _leave_reader(self) -> None:
        _log.warning("who asked does not read the answer: the connection is closed")
        self.abort()

    def _may_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _expect_head(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_HEAD_S, self.abort)

    def _forget_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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


Place = tuple[int, int]
"""Device and inode of a socket, which no other has as long as it is bound."""


def listen(path: Path, backlog: int) -> tuple[socket.socket, Place]:
    """A socket of this name, in one step instead of the one that was there: root's alone, in a
    directory that is root's alone. Raises OperationError.
    """
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_name(f".{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        one.bind(str(fresh))
        fresh.chmod(0o600)
        one.listen(backlog)
        place = _place_of(fresh)
        fresh.replace(path)
    except OSError as error:
        one.close()
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise OperationError(f"cannot listen on {path}: {error.strerror or error}") from None
    one.setblocking(False)
    return one, place


def is_at(path: Path, place: Place) -> bool:
    """Whether what has this name now is that socket."""
    try:
        return _place_of(path) == place
    except OSError:
        return False


def _place_of(path: Path) -> Place:
    facts = path.stat()
    return facts.st_dev, facts.st_ino


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
