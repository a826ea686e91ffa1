"""Questions that take long: one at a time, and a few that wait.

aiohttp lets a handler run on when its client has gone. So whoever asks and leaves at once would
leave a question behind each time, and all of them would be answered, to nobody.

    async with self._turns.turn(request, before):  # `before` is awaited while it waits
        found = await ...
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from lbctl.admin.door import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

WAITING = 16


class Turns:
    """WAITING may wait for the one whose turn it is; one more is answered with 503."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._inside = 0

    def __len__(self) -> int:
        """Those who wait, and the one whose turn it is."""
        return self._inside

    @contextlib.asynccontextmanager
    async def turn(
        self, request: web.Request, before: Callable[[], Coroutine[None, None, None]]
    ) -> AsyncIterator[None]:
        """Enter when it is this one's turn. A client that leaves before takes its question along:
        its handler is cancelled. After that the question is answered, whoever is still there.

        Raises web.HTTPServiceUnavailable where too many wait.
        """
        if self._inside > WAITING:
            raise web.HTTPServiceUnavailable(
                reason=f"{WAITING + 1} questions are under way already: ask again in a second",
                headers={"Retry-After": "1"},
            )
        self._inside += 1
        try:
            with contextlib.ExitStack() as waiting:
                waiting.enter_context(while_there(request))
                await before()
                async with self._turn:
                    waiting.close()
                    yield
        finally:
            self._inside -= 1


@contextlib.contextmanager
def while_there(request: web.Request) -> Iterator[None]:
    """Cancels the handler when its client leaves before this is over."""
    connection, task = request.protocol, asyncio.current_task()
    assert isinstance(connection, Connection)  # noqa: S101 - Door makes no others
    assert task is not None  # noqa: S101 - a handler runs in one
    if connection.transport is None:  # it left before this began
        raise asyncio.CancelledError

    def leave() -> None:
        task.cancel()

    connection.on_lost = leave
    try:
        yield
    finally:
        connection.on_lost = None
