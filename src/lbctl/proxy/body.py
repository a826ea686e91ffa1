"""A request's body on its way to a backend: framed, within its limit, and at a pace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.core.chunked import ChunkedBody
from lbctl.core.http1 import CHUNKED
from lbctl.errors import ProtocolError

if TYPE_CHECKING:
    from lbctl.proxy.forwarder import Forwarder


class RequestBody:
    """What is still to come of a body of `length` bytes, or CHUNKED.

    After `done`, `rest` holds what came behind it. A client may be slow, but not as slow as it
    likes, since its body holds a backend: whatever window of body_idle_timeout_s one looks at
    has to bring body_rate_min bytes a second.
    """

    __slots__ = (
        "_chunks",
        "_forwarder",
        "_left",
        "_limit",
        "_taken",
        "_window_bytes",
        "_window_end",
        "done",
        "rest",
    )

    def __init__(self, forwarder: Forwarder, length: int) -> None:
        """Raises ProtocolError 413."""
        limits = forwarder.limits
        self._forwarder = forwarder
        self._limit = limits.body_limit_bytes or float("inf")
        if length > self._limit:
            raise ProtocolError(413, "body_too_large")
        chunked = length == CHUNKED
        self._chunks = ChunkedBody(400, limits.head_limit_bytes) if chunked else None
        self._left = length
        self._taken = 0  # of a chunked one
        self.done = False
        self.rest = b""
        self.start_window()

    def start_window(self) -> None:
        self._window_end = self._forwarder.deadlines.body_idle
        self._window_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """The part of `data` that may go on. Raises ProtocolError 400, 408 or 413."""
        self._window_bytes += len(data)
        if self._forwarder.deadlines.now >= self._window_end:
            self._judge_pace()
        if self._chunks is not None:
            return self._feed_chunks(self._chunks, data)
        left = self._left - len(data)
        if left > 0:
            self._left = left
            return data
        self.done = True
        if not left:
            return data
        self.rest = data[self._left :]
        return data[: self._left]

    def _feed_chunks(self, chunks: ChunkedBody, data: bytes) -> bytes:
        body = chunks.feed(data)
        self._taken += len(body)
        if self._taken > self._limit:
            raise ProtocolError(413, "body_too_large")
        self.done = chunks.done
        self.rest = chunks.rest
        return body

    def _judge_pace(self) -> None:
        forwarder = self._forwarder
        window_s = forwarder.timeouts.body_idle_timeout_s
        if self._window_bytes < forwarder.limits.body_rate_min * window_s:
            raise ProtocolError(408, "body_too_slow")
        self.start_window()
