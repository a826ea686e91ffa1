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

An answer that breaks off is ended with a reset, so that no client takes half of it for the whole.
"""

from __future__ import annotations

import asyncio
import struct
from enum import Enum
from socket import SO_LINGER, SOL_SOCKET
from time import perf_counter
from typing import TYPE_CHECKING, cast

from lbctl.core.forwarding import (
    own_response,
    request_head,
    response_head,
    response_outlives_connection,
)
from lbctl.core.http1 import (
    CHUNKED,
    HEAD_END,
    NO_BODY,
    ChunkedBody,
    head_end,
    parse_request,
    without_empty_lines,
)
from lbctl.errors import ProtocolError

if TYPE_CHECKING:
    from lbctl.core.http1 import Request, Response
    from lbctl.proxy.forwarder import Forwarder
    from lbctl.proxy.pool import Pool
    from lbctl.proxy.upstream import Upstream

_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
_CONNECT_ATTEMPTS = 3
_LINGER_S = 2.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


class Phase(Enum):
    HEAD = "head"
    CONNECT = "connect"
    EXCHANGE = "exchange"
    LINGER = "linger"


_HEAD, _CONNECT, _EXCHANGE, _LINGER = Phase.HEAD, Phase.CONNECT, Phase.EXCHANGE, Phase.LINGER


class Downstream(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
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
        "_status",
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
        self._status = 0  # of the final response, as soon as its head was sent
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
        if self._phase is _HEAD:
            if self._started or not self._buffer:  # half a request, or none
                self._end_connection(discard=False)
        elif self._phase is _LINGER:
            self.transport.close()
        elif self.body_left and not self._status:
            self.transport.abort()  # this request will never be complete
        return True  # whether and when to close is decided here

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's
        self._closed = True
        self._forwarder.left(self)
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None
        self._settle()

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._upstream is not None:
            self._upstream.pause()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._status:
            self._touch_body()
        if self._upstream is not None:
            self._upstream.resume()
        elif self._phase is _HEAD and self._buffer:
            self._next_request()

    # The request.

    def _read_head(self, data: bytes) -> None:
        forwarder = self._forwarder
        if data[0] == 0x0D:
            data = without_empty_lines(data)
            if not data:
                self._started = 0.0
                return
        try:
            end = head_end(data, forwarder.limits.head_limit_bytes)
            if not end:
                if self._eof:
                    self._end_connection(discard=False)
                    return
                if not self._started:
                    self._started = perf_counter()
                    self.deadline = forwarder.now + forwarder.timeouts.head_timeout_s
                self._buffer = data
                return
            raw = data if end == len(data) else data[:end]
            request = parse_request(raw, forwarder.limits.head_limit_fields)
            self._request = request
            self._keep_alive = request.keep_alive
            self._started = perf_counter()
            self._outgoing = request_head(request, self._origin)
            self.body_left = request.length
            if request.length == NO_BODY:
                self.deadline = forwarder.now + forwarder.timeouts.response_timeout_s
                self._buffer = data[end:]
            else:
                self.deadline = forwarder.now + forwarder.timeouts.body_idle_timeout_s
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
        self._outgoing = b""
        self._touch_body()

    def _touch_body(self) -> None:
        """A body moved on: its clock starts again."""
        timeouts = self._forwarder.timeouts
        if self._phase is _EXCHANGE:
            waiting = not self.body_left and not self._status
            wait_s = timeouts.response_timeout_s if waiting else timeouts.body_idle_timeout_s
            self.deadline = self._forwarder.now + wait_s

    def _dispatch(self) -> None:
        """Give the request to the backend whose turn it is."""
        pool = self._forwarder.pick(())
        if pool is None:
            self._refuse(503, "no_backend", keep_alive=self._keep_alive)
        else:
            self._give(pool)

    def _give(self, pool: Pool) -> None:
        self._pool = pool
        pool.in_flight += 1
        pool.changed = True
        # After a connection was lost, only a new one is known not to be stale as well.
        upstream = None if self._retried else pool.take()
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
            forwarder = self._forwarder
            rest_s = forwarder.timeouts.upstream_idle_timeout_s
            upstream.pool.release(upstream, forwarder.now + rest_s)
            return
        if self.body_left:
            self.transport.resume_reading()
        self._exchange(upstream)

    def connect_failed(self, pool: Pool, reason: str) -> None:
        """Called by Forwarder.connect: nothing was sent, so another backend may have it."""
        if self._phase is not _CONNECT or self._closed or self._pool is not pool:
            return
        self._settle()
        self._tried = (*self._tried, pool)
        enough = len(self._tried) >= _CONNECT_ATTEMPTS
        another = None if enough else self._forwarder.pick(self._tried)
        if another is None:
            self._refuse(502, reason)
            return
        pool.retries["connect"] += 1
        self._give(another)

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
        self._status = response.status
        self._outgoing = b""
        if self._keep_alive:
            bounded = response_outlives_connection(response, minor)
            self._keep_alive = bounded and not self.body_left and not self._forwarder.draining
        head = response_head(response, minor=minor, keep_alive=self._keep_alive)
        self.transport.write(head)
        self._touch_body()

    def forward(self, data: bytes) -> None:
        """A part of the response's body."""
        if data:
            self._sent_bytes += len(data)
            self.transport.write(data)
            self.deadline = self._forwarder.now + self._forwarder.timeouts.body_idle_timeout_s

    def finished(self) -> None:
        """The response is complete; the upstream connection is not ours any more."""
        self._upstream = None
        self._settle()
        self._end_request()

    def upstream_lost(self, upstream: Upstream, *, untouched: bool) -> None:
        """The backend closed before its response was complete.

        `untouched`: not one byte of an answer came.
        """
        self._upstream = None
        pool, request = upstream.pool, self._request
        assert request is not None  # noqa: S101 - an exchange has one
        self._settle()
        if self._status:
            self._forwarder.suspect(pool)
            self.abort()
            return
        safe = untouched and request.length == NO_BODY and request.method in _IDEMPOTENT
        if not upstream.served or not safe:
            self._forwarder.suspect(pool)
        self._tried = (*self._tried, pool)
        # Where there is no other, the same one: it may just have closed an idle connection.
        another = self._forwarder.pick(self._tried) or (pool if pool.routed else None)
        if not safe or self._retried or another is None:
            self._refuse(502, "upstream_closed")
            return
        self._retried = True
        pool.retries["stale" if upstream.served else "closed"] += 1
        self._give(another)

    def broken_response(self, upstream: Upstream, reason: str) -> None:
        """What the backend sent is no HTTP."""
        self._upstream = None
        upstream.transport.abort()
        self._settle()
        self._forwarder.suspect(upstream.pool)
        self._refuse(502, reason)

    # The end of a request or of the connection.

    def expired(self) -> None:
        """Called by the forwarder's sweep: the deadline passed."""
        phase, upstream, pool = self._phase, self._upstream, self._pool
        if phase is _HEAD and self._started:
            self._refuse(408, "head_timeout")
        elif phase is _HEAD:
            self._end_connection(discard=False)
        elif phase is _LINGER or self._status:
            self.abort()
        elif self.body_left and upstream is not None and not upstream.clogged:
            self._abort_upstream()
            self._refuse(408, "body_timeout")
        else:
            self._abort_upstream()
            if pool is not None:
                self._forwarder.suspect(pool)
            self._refuse(504, "response_timeout")

    def close_if_idle(self) -> None:
        """Called while the worker drains: a client at rest may go."""
        if self._phase is _HEAD and not self._buffer:
            self._end_connection(discard=False)

    def abort(self) -> None:
        """End the connection at once.

        If something of an answer is missing, then with a reset: after a FIN, half of an answer
        that ends with the connection would look like a whole one.
        """
        if self._status or self.transport.get_write_buffer_size():
            socket = self.transport.get_extra_info("socket")
            socket.setsockopt(SOL_SOCKET, SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    def _refuse(self, status: int, reason: str, *, keep_alive: bool = False) -> None:
        """Answer ourselves; unless told otherwise the connection ends with it."""
        forwarder = self._forwarder
        forwarder.refused[reason] += 1
        self._settle()
        if self._status:
            self.abort()
            return
        self._keep_alive = keep_alive and not self.body_left and not forwarder.draining
        answer = own_response(
            status,
            reason.replace("_", " "),
            forwarder.date,
            minor=self.minor,
            keep_alive=self._keep_alive,
            head_only=self.method == b"HEAD",
        )
        self.transport.write(answer)
        if forwarder.access_log is not None:
            duration_s = perf_counter() - self._started if self._started else 0.0
            body_bytes = len(answer) - answer.index(HEAD_END) - len(HEAD_END)
            forwarder.access_log.add(self.ip, self._request, status, body_bytes, duration_s, None)
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
        self._status = 0
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
            self._end_connection(discard=unread or refused_head)

    def _next_request(self) -> None:
        if self._phase is not _HEAD or self._closed or not self._buffer:
            return
        data, self._buffer = self._buffer, b""
        if not self._eof:
            self.transport.resume_reading()
        self._read_head(data)

    def _end_connection(self, *, discard: bool) -> None:
        """Close once everything is sent; with `discard`, first read what the client still sends."""
        self._phase = _LINGER
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

    def _settle(self) -> None:
        """The request is done with its backend. Whatever got a response's head from it is
        counted and logged under its status, even if the rest never came.
        """
        pool = self._pool
        if pool is None:
            return
        self._pool = None
        pool.in_flight -= 1
        pool.changed = True
        if self._status:
            duration_s = perf_counter() - self._started
            pool.record(self._status, duration_s)
            log = self._forwarder.access_log
            if log is not None:
                sent_bytes = self._sent_bytes
                log.add(self.ip, self._request, self._status, sent_bytes, duration_s, pool.backend)
        if not pool.in_flight:
            self._forwarder.settled(pool)
