"""A client's connection: reads requests, finds each a backend, passes the answer back.

The phases of a connection, and what moves it on:

    HEAD      a request head is being awaited          whole head -> CONNECT or EXCHANGE
    CONNECT   a connection to a backend is being made  made -> EXCHANGE; failed -> another one
    EXCHANGE  a backend has the request                response complete -> HEAD or LINGER
    LINGER    we have said all we will; what still comes is discarded, so that the kernel's
              reset does not overtake the answer (RFC 9112, section 9.6)

A request is answered once. It is sent a second time only where that is provably safe: if
nothing of it was sent, or if it is idempotent, has no body, and no byte of an answer came
(RFC 9110, section 9.2.2).
"""

from __future__ import annotations

import asyncio
from enum import Enum
from time import perf_counter
from typing import TYPE_CHECKING, cast

from lbctl.core.forwarding import (
    own_response,
    request_head,
    response_head,
    response_outlives_connection,
)
from lbctl.core.http1 import CHUNKED, NO_BODY, ChunkedBody, head_end, parse_request
from lbctl.errors import ProtocolError

if TYPE_CHECKING:
    from lbctl.core.http1 import Request, Response
    from lbctl.proxy.forwarder import Forwarder
    from lbctl.proxy.pool import Pool
    from lbctl.proxy.upstream import Upstream

_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
_CONNECT_ATTEMPTS = 3
_LINGER_S = 2.0


class Phase(Enum):
    HEAD = "head"
    CONNECT = "connect"
    EXCHANGE = "exchange"
    LINGER = "linger"


_HEAD, _CONNECT, _EXCHANGE, _LINGER = Phase.HEAD, Phase.CONNECT, Phase.EXCHANGE, Phase.LINGER


class Downstream(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_answered",
        "_buffer",
        "_chunks",
        "_closed",
        "_eof",
        "_forwarder",
        "_keep_alive",
        "_origin",
        "_outgoing",
        "_phase",
        "_pool",
        "_request",
        "_retried",
        "_sent_bytes",
        "_started",
        "_tried",
        "_upstream",
        "_write_paused",
        "body_left",
        "deadline",
        "ip",
        "transport",
    )

    def __init__(self, forwarder: Forwarder, ip: str, origin: bytes) -> None:
        # process
        self._forwarder = forwarder
        # connection
        self.transport: asyncio.Transport
        self.ip = ip
        self.deadline = forwarder.now + forwarder.timeouts.client_idle_timeout_s
        self._origin = origin
        self._phase = _HEAD
        self._buffer = b""  # bytes not yet looked at: half a head, or requests to come
        self._write_paused = False
        self._eof = False  # the client sends no more, but may still read
        self._closed = False
        # request
        self._request: Request | None = None
        self._keep_alive = True
        self.body_left = NO_BODY  # of the request: bytes, or CHUNKED until its end was seen
        self._chunks: ChunkedBody | None = None
        self._outgoing = b""  # what a backend is to get first
        self._pool: Pool | None = None
        self._upstream: Upstream | None = None
        self._tried: tuple[Pool, ...] = ()
        self._retried = False
        self._answered = False  # a byte of the final response was sent
        self._sent_bytes = 0
        self._started = 0.0

    @property
    def method(self) -> bytes:
        """Of the present request."""
        return self._request.method if self._request is not None else b""

    @property
    def minor(self) -> int:
        """Minor version of the present request."""
        return self._request.minor if self._request is not None else 1

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self._forwarder.limits.write_buffer_bytes)
        self._forwarder.joined(self)

    def data_received(self, data: bytes) -> None:
        if self._phase is _HEAD and not self._write_paused:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            self._read_head(data)
        elif self._phase is _EXCHANGE and self.body_left:
            self._read_body(data)
        elif self._phase is not _LINGER:
            self._buffer += data
            if len(self._buffer) > self._forwarder.limits.head_limit_bytes:
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        """A half-closed client may still read the answers to what it sent."""
        self._eof = True
        waiting = self._phase is _CONNECT or self._phase is _EXCHANGE
        return (waiting and not self.body_left) or self._write_paused

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's
        self._closed = True
        self._forwarder.left(self)
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None
        self._leave_pool()

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._upstream is not None:
            self._upstream.pause()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._touch_body()
        if self._upstream is not None:
            self._upstream.resume()
        elif self._phase is _HEAD and self._buffer:
            self._next_request()

    # The request.

    def _read_head(self, data: bytes) -> None:
        forwarder = self._forwarder
        if data[0] == 0x0D and data[:2] == b"\r\n":  # RFC 9112, section 2.2
            data = data[2:]
            if not data:
                return
        try:
            end = head_end(data, forwarder.limits.head_limit_bytes)
            if not end:
                if self._eof:
                    self.transport.close()
                elif not self._started:
                    self._started = perf_counter()
                    self.deadline = forwarder.now + forwarder.timeouts.head_timeout_s
                self._buffer = data
                return
            raw = data if end == len(data) else data[:end]
            request = parse_request(raw, forwarder.limits.head_limit_fields)
            self._request = request
            self._keep_alive = request.keep_alive and not forwarder.draining
            self._started = perf_counter()
            self.deadline = forwarder.now + forwarder.timeouts.response_timeout_s
            self._outgoing = request_head(request, self._origin)
            self.body_left = request.length
            if request.length == NO_BODY:
                self._buffer = data[end:]
            else:
                if request.length == CHUNKED:
                    self._chunks = ChunkedBody(400, forwarder.limits.head_limit_bytes)
                # What came along is checked before a backend hears of the request.
                self._outgoing += self._check_body(data[end:])
        except ProtocolError as error:
            self._refuse(error.status, error.reason)
            return
        self._dispatch()

    def _check_body(self, data: bytes) -> bytes:
        """The part of `data` that belongs to the request's body; the rest is kept."""
        if self._chunks is not None:
            body = self._chunks.feed(data)
            if self._chunks.done:
                self.body_left = NO_BODY
                self._buffer = self._chunks.rest
                self._chunks = None
            return body
        left = self.body_left - len(data)
        if left >= 0:
            self.body_left = left
            return data
        body, self._buffer = data[: self.body_left], data[self.body_left :]
        self.body_left = NO_BODY
        return body

    def _read_body(self, data: bytes) -> None:
        try:
            body = self._check_body(data)
        except ProtocolError as error:
            self._abort_upstream()
            self._refuse(error.status, error.reason)
            return
        assert self._upstream is not None  # noqa: S101 - the phase is EXCHANGE
        self._upstream.transport.write(body)
        if not self._answered:
            self._outgoing = b""
        self._touch_body()

    def _touch_body(self) -> None:
        """A body moved on: its clock starts again."""
        timeouts = self._forwarder.timeouts
        if self._phase is _EXCHANGE:
            waiting = not self.body_left and not self._answered
            wait_s = timeouts.response_timeout_s if waiting else timeouts.body_idle_timeout_s
            self.deadline = self._forwarder.now + wait_s

    def _dispatch(self) -> None:
        """Give the request to a backend."""
        pool = self._forwarder.pick(self._tried)
        if pool is None:
            if self._tried:
                self._refuse(502, "no_backend_reached")
            else:
                self._refuse(503, "no_backend", keep_alive=self._keep_alive)
            return
        self._pool = pool
        pool.in_flight += 1
        upstream = pool.take()
        if upstream is not None:
            self._exchange(upstream)
            return
        self._phase = _CONNECT
        if self.body_left:
            self.transport.pause_reading()
        self._forwarder.connect(pool, self)

    def connected(self, upstream: Upstream) -> None:
        """Called by Forwarder.connect: the connection that was asked for."""
        if self._phase is not _CONNECT or self._closed or self._pool is not upstream.pool:
            upstream.pool.release(upstream, self._forwarder.now + _LINGER_S)
            return
        if self.body_left:
            self.transport.resume_reading()
        self._exchange(upstream)

    def connect_failed(self, pool: Pool, reason: str) -> None:
        """Called by Forwarder.connect: nothing was sent, so another backend may have it."""
        if self._phase is not _CONNECT or self._closed or self._pool is not pool:
            return
        self._leave_pool()
        self._tried = (*self._tried, pool)
        if len(self._tried) >= _CONNECT_ATTEMPTS:
            self._refuse(502, reason)
            return
        pool.retries["connect"] += 1
        pool.changed = True
        self._dispatch()

    def _exchange(self, upstream: Upstream) -> None:
        self._phase = _EXCHANGE
        self._upstream = upstream
        upstream.begin(self)
        upstream.transport.write(self._outgoing)
        if self._write_paused:
            upstream.pause()

    # The response; called by Upstream.

    def interim(self, response: Response) -> None:
        """A 1xx on the way to the final response. HTTP/1.0 knows none."""
        if self.minor == 1:
            self.transport.write(response_head(response, minor=1, keep_alive=True))

    def respond(self, response: Response) -> None:
        """The head of the final response."""
        minor = self.minor
        self._answered = True
        self._outgoing = b""
        if self._keep_alive:
            bounded = response_outlives_connection(response, minor)
            self._keep_alive = bounded and not self.body_left
        head = response_head(response, minor=minor, keep_alive=self._keep_alive)
        self.transport.write(head)
        self._touch_body()

    def forward(self, data: bytes) -> None:
        """A part of the response's body."""
        if data:
            self._sent_bytes += len(data)
            self.transport.write(data)
            self.deadline = self._forwarder.now + self._forwarder.timeouts.body_idle_timeout_s

    def finished(self, response: Response) -> None:
        """The response is complete; the upstream connection is not ours any more."""
        self._upstream = None
        request, pool = self._request, self._pool
        assert request is not None  # noqa: S101 - an exchange has both
        assert pool is not None  # noqa: S101
        duration_s = perf_counter() - self._started
        pool.record(response.status, duration_s)
        log = self._forwarder.access_log
        if log is not None:
            log.add(self.ip, request, response.status, self._sent_bytes, duration_s, pool.backend)
        self._leave_pool()
        self._end_request()

    def upstream_lost(self, upstream: Upstream, *, untouched: bool) -> None:
        """The backend closed before its response was complete.

        `untouched`: not one byte of an answer came.
        """
        self._upstream = None
        pool, request = upstream.pool, self._request
        assert request is not None  # noqa: S101 - an exchange has one
        self._leave_pool()
        if self._answered:
            self.transport.abort()  # half an answer must not look like a whole one
            return
        safe = untouched and request.length == NO_BODY and request.method in _IDEMPOTENT
        if not safe or self._retried:
            self._forwarder.suspect(pool)
            self._refuse(502, "upstream_closed")
            return
        self._retried = True
        pool.retries["stale" if upstream.served else "closed"] += 1
        pool.changed = True
        if not upstream.served:
            self._forwarder.suspect(pool)
        if self._forwarder.others(pool):
            self._tried = (*self._tried, pool)
        self._dispatch()

    def broken_response(self, upstream: Upstream, reason: str) -> None:
        """What the backend sent is no HTTP."""
        self._upstream = None
        upstream.transport.abort()
        self._leave_pool()
        if self._answered:
            self.transport.abort()
        else:
            self._refuse(502, reason)

    # The end of a request or of the connection.

    def expired(self) -> None:
        """Called by the forwarder's sweep: the deadline passed."""
        phase = self._phase
        if phase is _HEAD and self._started:
            self._refuse(408, "head_timeout")
        elif phase is _HEAD:
            self.transport.close()
        elif phase is _LINGER or self._answered:
            self.transport.abort()
        else:
            self._abort_upstream()
            if self.body_left:
                self._refuse(408, "body_timeout")
            else:
                self._refuse(504, "response_timeout")

    def close_if_idle(self) -> None:
        """Called while the worker drains: a client at rest may go."""
        if self._phase is _HEAD and not self._buffer:
            self.transport.close()

    def _refuse(self, status: int, reason: str, *, keep_alive: bool = False) -> None:
        """Answer ourselves; unless told otherwise the connection ends with it."""
        self._forwarder.refused[reason] += 1
        self._leave_pool()
        if self._answered:
            self.transport.abort()
            return
        self._keep_alive = keep_alive and not self.body_left
        self.transport.write(
            own_response(
                status,
                reason.replace("_", " "),
                self._forwarder.date,
                keep_alive=self._keep_alive,
                head_only=self.method == b"HEAD",
            )
        )
        self._end_request()

    def _end_request(self) -> None:
        unread = bool(self.body_left or (self._buffer and not self._eof))
        refused_head = self._phase is _HEAD
        self._request = None
        self._chunks = None
        self._outgoing = b""
        self.body_left = NO_BODY
        self._tried = ()
        self._retried = False
        self._answered = False
        self._sent_bytes = 0
        self._started = 0.0
        forwarder = self._forwarder
        if self._keep_alive and (self._buffer or not self._eof):
            self._phase = _HEAD
            self.deadline = forwarder.now + forwarder.timeouts.client_idle_timeout_s
            if self._buffer and not self._write_paused:
                # Not at once: a pipeline of refused requests must not become a recursion.
                forwarder.loop.call_soon(self._next_request)
        else:
            self._phase = _LINGER
            self._say_goodbye(discard=unread or refused_head)

    def _next_request(self) -> None:
        if self._phase is not _HEAD or self._closed or not self._buffer:
            return
        data, self._buffer = self._buffer, b""
        self.transport.resume_reading()
        self._read_head(data)

    def _say_goodbye(self, *, discard: bool) -> None:
        """Close once everything is sent; with `discard`, first read what the client still sends."""
        self._buffer = b""
        unsent = self.transport.get_write_buffer_size()
        wait_s = self._forwarder.timeouts.body_idle_timeout_s if unsent else _LINGER_S
        self.deadline = self._forwarder.now + wait_s
        if discard and not self._eof and self.transport.can_write_eof():
            self.transport.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()

    def _abort_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None

    def _leave_pool(self) -> None:
        if self._pool is not None:
            self._pool.in_flight -= 1
            self._pool.changed = True
            self._forwarder.settled(self._pool)
            self._pool = None
