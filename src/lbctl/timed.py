"""A connection of aiohttp's server with two ends that aiohttp does not know: for a client that
never sends its request, and for one that never reads its answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web


class TimedHandler(web.RequestHandler):
    """One client's. `head_s` is for a whole head to come, `write_s` for a reader that does not
    read; then it ends. The server says when a request `begins` and `ends`.
    """

    def __init__(
        self, server: web.Server, *, head_s: float, write_s: float, **options: Any
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._head_s = head_s
        self._write_s = write_s
        self._timer: asyncio.TimerHandle | None = None  # for a head
        self._write_timer: asyncio.TimerHandle | None = None
        self._working = False
        self._end: asyncio.BaseTransport | None = None  # aiohttp forgets one that it has closed

    # What the transport says

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
            self._write_timer = loop.call_later(self._write_s, self.leave_reader)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._may_write()

    # What the server says

    def begins(self) -> None:
        """A whole head is there."""
        self._forget_head()
        self._working = True

    def ends(self) -> None:
        """Its answer is about to be sent."""
        self._working = False

    def leave_reader(self) -> None:
        """It has not read for too long."""
        self.abort()

    def abort(self) -> None:
        """End it now, whatever is under way."""
        if isinstance(self._end, asyncio.Transport):
            self._end.abort()

    def _expect_head(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._head_s, self.abort)

    def _forget_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _may_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
