"""`GET /api/v1/live`: the stack as it changes, once a second, for the dashboard.

A listener is told everything once (`event: status`), then at each beat what has changed since the
last one (`event: change`). A change is made and encoded once, for all listeners together, and not
at all while there are none. Whoever has not taken a beat by the next one misses it, and is told
everything again as soon as it reads: so what waits for one listener is one message, shared by all,
however slow it is.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lbctl.admin.sse import encode
from lbctl.core.changes import changes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp import web

    from lbctl.admin.series import Series
    from lbctl.admin.sse import Stream, Streams

    View = Mapping[str, Any]


class Live:
    """Owns the listeners. `beat` is called once a second by whoever measures.

    `view` is asked for the present (see core.changes), `now` for the time as text.
    """

    def __init__(
        self, streams: Streams, view: Callable[[], View], series: Series, now: Callable[[], str]
    ) -> None:
        self._streams = streams
        self._view = view
        self._series = series
        self._now = now
        self._listeners: set[_Listener] = set()
        self._told: View | None = None
        self._whole: bytes | None = None

    def beat(self) -> None:
        """Tell the listeners what has changed since the last beat."""
        self._whole = None
        if not self._listeners:
            self._told = None
            return
        before, self._told = self._told, self._view()
        if before is not None:
            change = _encoded("change", {"now": self._now(), **changes(before, self._told)})
            for listener in self._listeners:
                listener.tell(change)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Stream to one listener, until it leaves or the streams are closed."""
        async with self._streams.open(request) as stream:
            listener = _Listener(stream)
            self._listeners.add(listener)
            try:
                while stream.alive:
                    message = listener.take()
                    await stream.send(self._everything() if message is None else message)
                    await listener.rest()
            finally:
                self._listeners.discard(listener)
        return stream.response

    def _everything(self) -> bytes:
        """As of the last beat: the next change builds on it. Encoded once a beat at most."""
        if self._told is None:
            self._told = self._view()
        if self._whole is None:
            status = {"now": self._now(), **self._told, "series": self._series.columns}
            self._whole = _encoded("status", status)
        return self._whole


class _Listener:
    """The place of one message before a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._message: bytes | None = None
        self._is_current = False  # it was sent everything up to the last beat, and rests

    def tell(self, message: bytes) -> None:
        self._message = message if self._is_current else None
        self._is_current = False
        self._stream.wake()

    def take(self) -> bytes | None:
        """The next message; None: everything."""
        message, self._message = self._message, None
        return message

    async def rest(self) -> None:
        self._is_current = True
        await self._stream.rest()
        self._is_current = False


def _encoded(event: str, document: Mapping[str, Any]) -> bytes:
    return encode(json.dumps(document, separators=(",", ":")), event)
