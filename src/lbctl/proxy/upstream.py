"""A connection to a backend: reads responses and hands them to the client's connection.

It belongs either to its pool (idle: whatever arrives then closes it) or to exactly one
Downstream, from begin() until the response is complete. Bytes of a body go straight from
data_received to the client's transport; nothing is queued here.
"""

from __future__ import annotations

import asyncio
from socket import SO_ERROR, SO_RCVBUF, SOL_SOCKET
from typing import TYPE_CHECKING, cast

from lbctl.core.chunked import ChunkedBody
from lbctl.core.forwarding import response_head
from lbctl.core.http1 import (
    CHUNKED,
    HEAD_END,
    UNTIL_CLOSE,
    Response,
    connection_options,
    has_bare_lf,
    parse_response,
    upgrade_protocols,
)
from lbctl.errors import ProtocolError

if TYPE_CHECKING:
    from lbctl.core.http1 import Request
    from lbctl.proxy.downstream import Downstream
    from lbctl.proxy.forwarder import Forwarder
    from lbctl.proxy.pool import Pool

_INTERIM_LIMIT = 16
"""1xx responses before the final one; more is a flood."""


class Upstream(asyncio.Protocol):
    """One HTTP/1.1 connection to a backend."""

    __slots__ = (
        "_buffer",
        "_chunks",
        "_eof",
        "_interim",
        "_left",
        "_paused",
        "backend",
        "clogged",
        "deadline",
        "downstream",
        "forwarder",
        "pool",
        "response",
        "served",
        "stay",
        "transport",
    )

    def __init__(self, forwarder: Forwarder, pool: Pool) -> None:
        # process
        self.forwarder = forwarder
        self.pool = pool
        # connection
        self.backend = pool.backend  # the pool's may get another address meanwhile
        self.stay = pool.stay
        self.transport: asyncio.Transport
        self.deadline = 0.0  # while idle
        self.served = 0  # requests answered before the present one
        self.clogged = False  # the backend reads too slowly; the client is paused
        self._eof = False  # the backend's end of a tunnel sends no more
        self._paused = False  # the client reads too slowly; the backend is paused
        # request
        self.downstream: Downstream | None = None
        self.response: Response | None = None
        self._buffer = b""
        self._left = 0
        self._chunks: ChunkedBody | None = None
        self._interim = 0

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        limit = self.forwarder.limits.write_buffer_bytes
        self.transport.set_write_buffer_limits(high=limit)
        # One read takes all that the kernel holds, and goes to a client that may be slow.
        end = self.transport.get_extra_info("socket")
        end.setsockopt(SOL_SOCKET, SO_RCVBUF, limit)

    def data_received(self, data: bytes) -> None:
        downstream, pool = self.downstream, self.pool
        if downstream is None:
            pool.discard(self)  # nobody asked; a late answer must not meet a new request
            self.transport.abort()
            return
        pool.heard += 1
        try:
            if self.response is None:
                end = data.find(HEAD_END) + 4
                known = self.forwarder.known_response(data[:end])
                request = downstream.request
                if (
                    known is not None
                    and request is not None
                    and request.simple
                    and downstream.body is None
                    and known.length == len(data) - end
                    and not (self._buffer or self._paused or self.clogged)
                ):
                    self.downstream = None
                    self.served += 1
                    pool.release(self, self.forwarder.deadlines.upstream_idle)
                    head = known.raw if request.keep_alive else known.closing
                    downstream.answered(known, head + data[end:])
                else:
                    self._head(downstream, data)
            else:
                self._body(downstream, self.response, data)
        except ProtocolError as error:
            self._leave().broken_response(self, error.reason)

    def eof_received(self) -> bool:
        """The end, at once: what is still to be sent must not delay it until it is flushed."""
        downstream, response = self.downstream, self.response
        if downstream is not None and response is not None and response.status == 101:
            self._eof = True
            return downstream.end_of_output()
        if downstream is None:
            self.pool.discard(self)
        elif response is not None and response.length == UNTIL_CLOSE and not self._was_reset():
            self._finish(downstream, reusable=False)
        else:
            self._lost()
        self.transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's
        self.pool.open.discard(self)
        if self.downstream is None:
            self.pool.discard(self)
        else:
            self._lost()  # without an EOF before it: reset

    def _was_reset(self) -> bool:
        """libuv reports an end where a reset came right behind data; the kernel knows better."""
        socket = self.transport.get_extra_info("socket")
        return bool(socket.getsockopt(SOL_SOCKET, SO_ERROR))

    def pause_writing(self) -> None:
        self.clogged = True
        if self.downstream is not None:
            self.downstream.transport.pause_reading()

    def resume_writing(self) -> None:
        self.clogged = False
        if self.downstream is not None:
            self.downstream.read_on()

    # Called by Downstream.

    @property
    def untouched(self) -> bool:
        """Not one byte of an answer came."""
        return self.response is None and not self._buffer and not self._interim

    def begin(self, downstream: Downstream) -> None:
        """Take on one request; the caller writes it."""
        self.downstream = downstream
        self.response = None
        self._interim = 0

    def pause(self) -> None:
        """The client reads too slowly."""
        self._paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def end_of_input(self) -> None:
        """The client's end of a tunnel sends no more; the backend still may."""
        if self._eof:
            assert self.downstream is not None  # noqa: S101 - it is who calls
            self._finish(self.downstream, reusable=False)
        elif not self.transport.is_closing():
            self.transport.write_eof()

    def abort(self) -> None:
        """Give up the exchange: the client left, or took too long."""
        self._leave()
        self.transport.abort()

    # The response.

    def _head(self, downstream: Downstream, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        limits = self.forwarder.limits
        while True:
            end = data.find(HEAD_END) + 4
            if end < 4 or end > limits.head_limit_bytes:
                if len(data) >= limits.head_limit_bytes:
                    raise ProtocolError(502, "response_head_too_large")
                if has_bare_lf(data):
                    raise ProtocolError(502, "bad_response")
                self._buffer = data
                return
            original = data if end == len(data) else data[:end]
            response = parse_response(original, downstream.method, limits.head_limit_fields)
            data = data[end:]
            if response.status >= 200:
                break
            self._interim += 1
            if response.status == 101 and _is_answer_to_upgrade(response, downstream.request):
                response.length = UNTIL_CLOSE
                break
            if response.status == 101 or self._interim > _INTERIM_LIMIT:
                raise ProtocolError(502, "unasked_interim_response")
            downstream.interim(response)
        self.response = response
        if response.status == 101:
            downstream.switch(response)
            downstream.forward(data)
            return
        if response.plain and response.length >= 0 and downstream.method != b"HEAD":
            response.closing = response_head(response, minor=1, keep_alive=False)
            self.forwarder.known_responses.keep(original, response)
        if response.length == CHUNKED:
            decode = downstream.minor == 0
            self._chunks = chunks = ChunkedBody(502, limits.head_limit_bytes, decode=decode)
            first = chunks.feed(data)  # what is broken from the start is a 502, not half a 200
            downstream.respond(response)
            self._forward_chunks(downstream, response, chunks, first)
            return
        self._left = response.length
        downstream.respond(response)
        if data or response.length == 0:
            self._body(downstream, response, data)

    def _body(self, downstream: Downstream, response: Response, data: bytes) -> None:
        if response.length >= 0:
            left = self._left - len(data)
            if left < 0:  # longer than declared: the rest is nobody's
                data = data[: self._left]
            self._left = left
            downstream.forward(data)
            if left <= 0:
                self._finish(downstream, reusable=left == 0 and response.keep_alive)
        elif self._chunks is None:
            downstream.forward(data)
        else:
            part = self._chunks.feed(data)
            self._forward_chunks(downstream, response, self._chunks, part)

    def _forward_chunks(
        self, downstream: Downstream, response: Response, chunks: ChunkedBody, part: bytes
    ) -> None:
        downstream.forward(part)
        if chunks.done:
            self._finish(downstream, reusable=not chunks.rest and response.keep_alive)

    def _finish(self, downstream: Downstream, *, reusable: bool) -> None:
        tunnel = self.response is not None and self.response.status == 101
        self._leave()
        self.resume()
        self.served += 1
        if reusable and downstream.body is None and not self.clogged:
            self.pool.release(self, self.forwarder.deadlines.upstream_idle)
        elif tunnel:
            self.transport.close()
        else:
            self.transport.abort()  # nobody waits for it to read the rest of the request
        downstream.finished()

    def _lost(self) -> None:
        untouched = self.untouched
        self._leave().upstream_lost(self, untouched=untouched)

    def _leave(self) -> Downstream:
        downstream = self.downstream
        assert downstream is not None  # noqa: S101 - the callers have one
        self.downstream = None
        self._buffer = b""
        self._chunks = None
        if self.clogged:
            downstream.transport.resume_reading()
        return downstream


def _is_answer_to_upgrade(response: Response, request: Request | None) -> bool:
    """Whether a 101 changes to what the client asked for (RFC 9110, section 7.8)."""
    chosen = upgrade_protocols(response.fields)
    options = connection_options(response.fields)
    return request is not None and b"upgrade" in options and bool(chosen & request.upgrade)
