"""A client's connection: reads requests, finds each a backend, passes the answer back.

The phases of a connection, and what moves it on:

    HEAD      a request head is being awaited          whole head -> CONNECT or EXCHANGE
    CONNECT   a connection to a backend is being made  made -> EXCHANGE; failed -> another one
    EXCHANGE  a backend has the request                response complete -> HEAD or LINGER;
                                                       101 -> TUNNEL
    TUNNEL    both sides talk something else (RFC 9110, section 7.8)       until both are done
    TURNED    may not stay (proxy/gate.py); told when it has said something: some take an answer
              before that for an error                 something came, or a moment -> LINGER
    LINGER    we have said all we will; what still comes is discarded, so that the kernel's
              reset does not overtake the answer (RFC 9112, section 9.6)

A request is answered once; proxy/attempts.py says when it is sent a second time. An answer that
breaks off is ended with a reset, so that no client takes half of it for the whole.

The short way: a head whose very bytes were read before needs no reading, and an answer that
comes in one piece, with a head that was read before, goes out in one piece: from `data_received`
straight to `_begin`, and from Upstream straight to `answered`. Whatever is unlike goes the long
way, with the same outcome (tests/unit/proxy/test_two_ways.py).
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
    HEAD_END,
    NO_BODY,
    head_end,
    parse_request,
    without_empty_lines,
)
from lbctl.core.memo import HEAD_BYTES
from lbctl.errors import ProtocolError
from lbctl.model import Failure
from lbctl.proxy.attempts import Attempts
from lbctl.proxy.body import RequestBody

if TYPE_CHECKING:
    from lbctl.core.http1 import Request, Response
    from lbctl.core.origin import Origin
    from lbctl.model import Backend
    from lbctl.proxy.forwarder import Forwarder
    from lbctl.proxy.pool import Pool
    from lbctl.proxy.upstream import Upstream

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s
_TLS_RECORD = 0x16  # begins a handshake, and no HTTP


class Phase(Enum):
    HEAD = "head"
    CONNECT = "connect"
    EXCHANGE = "exchange"
    TUNNEL = "tunnel"
    TURNED = "turned"
    LINGER = "linger"


# Looking up a member of an Enum costs as much as a call.
_HEAD, _CONNECT, _EXCHANGE, _TUNNEL, _TURNED, _LINGER = Phase


class Downstream(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_answer_by",
        "_attempts",
        "_buffer",
        "_client",
        "_closed",
        "_connect_s",
        "_counted",
        "_deadlines",
        "_eof",
        "_first_byte_s",
        "_forwarder",
        "_heard",
        "_keep_alive",
        "_number",
        "_outgoing",
        "_phase",
        "_pool",
        "_sent_bytes",
        "_started",
        "_status",
        "_upstream",
        "_verdict",
        "_write_paused",
        "body",
        "deadline",
        "origin",
        "request",
        "transport",
    )

    def __init__(self, forwarder: Forwarder) -> None:
        # process
        self._forwarder = forwarder
        self._deadlines = forwarder.deadlines
        # connection
        self.transport: asyncio.Transport
        self.origin: Origin
        self.deadline = self._deadlines.client_idle
        self._phase = _HEAD
        self._buffer = b""  # bytes not yet looked at: half a head, or requests to come
        self._write_paused = False
        self._eof = False  # the client sends no more, but may still read
        self._closed = False
        self._client = 0  # key of its network, where limits are on
        self._counted = False  # among its network's connections
        self._verdict = ""  # why it may not stay
        # request
        self.request: Request | None = None
        self._number = 0  # of the request, for its id
        self._keep_alive = True
        self.body: RequestBody | None = None  # until its end was seen
        self._outgoing = b""  # what a backend is to get first
        self._pool: Pool | None = None
        self._upstream: Upstream | None = None
        self._answer_by = 0.0  # the deadline of a request without a body, or of the last words
        self._attempts: Attempts | None = None  # from the first that failed
        self._heard = 0  # `heard` of the pool, when the request was sent
        self._status = 0  # of the final response, as soon as its head was sent
        self._sent_bytes = 0
        self._started = 0.0
        self._connect_s = 0.0
        self._first_byte_s = 0.0

    @property
    def method(self) -> bytes:
        """Of the present request."""
        return self.request.method if self.request is not None else b""

    @property
    def minor(self) -> int:
        """Minor version of the present request."""
        return self.request.minor if self.request is not None else 1

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self._forwarder.limits.write_buffer_bytes)
        peer = transport.get_extra_info("peername")  # None: it was reset meanwhile
        self.origin = self._origin_of(peer[0] if peer else "")
        self._forwarder.joined(self)

    def _origin_of(self, ip: str) -> Origin:
        return self._forwarder.origin(ip)

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase is _HEAD and not self._write_paused:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            request = self._forwarder.known_request(data) if len(data) <= HEAD_BYTES else None
            if request is not None and request.length == NO_BODY:
                self._begin(request)
            else:
                self._read_head(data)
        elif phase is _EXCHANGE and self.body is not None:
            self._read_body(self.body, data)
        elif phase is _TUNNEL:
            assert self._upstream is not None  # noqa: S101 - a tunnel has one
            self._upstream.transport.write(data)
            self.deadline = self._deadlines.tunnel_idle
        elif phase is _TURNED:
            self._tell_verdict()
        elif phase is not _LINGER:
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
        elif self._phase is _TURNED:
            self._tell_verdict()
        elif self._phase is _TUNNEL:
            assert self._upstream is not None  # noqa: S101 - a tunnel has one
            self._upstream.end_of_input()
        elif self.body is not None and not self._status:
            self.transport.abort()  # this request will never be complete
        return True  # whether and when to close is decided here

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's
        self._closed = True
        self._forwarder.left(self)
        self._abort_upstream()
        self._settle()
        self._end_attempts()

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
        limits = forwarder.limits
        if data[0] < 0x20:  # no request begins like that
            if data[0] == _TLS_RECORD:
                self._refuse(400, "tls_on_the_plain_port")
                return
            data = without_empty_lines(data)
            if not data:
                self._started = 0.0
                if self._eof:
                    self._end_connection(discard=False)
                return
        try:
            end = head_end(data, limits.head_limit_bytes)
            if not end:
                if self._eof:
                    self._end_connection(discard=False)
                    return
                if not self._started:
                    self._started = perf_counter()
                    self.deadline = min(self.deadline, self._deadlines.client_head)
                self._buffer = data
                return
            raw = data if end == len(data) else data[:end]
            request = forwarder.known_request(raw)
            if request is None:
                request = self.request = parse_request(
                    raw, limits.head_limit_fields, forwarder.known_hosts
                )
                forwarder.admit(request, self.origin)
            if request.length == NO_BODY:
                self._buffer = data[end:]
                self._begin(request)
                return
            self._start(request)
            self.body = RequestBody(forwarder, request.length)
            # What came along is checked before a backend hears of the request.
            self._outgoing += self._take_body(self.body, data[end:])
        except ProtocolError as error:
            self._refuse(error.status, error.reason)
            return
        self._dispatch()

    def _begin(self, request: Request) -> None:
        """A request that is complete with its head."""
        self._start(request)
        self._dispatch()

    def _start(self, request: Request) -> None:
        self.request = request
        self._keep_alive = request.keep_alive
        self._started = perf_counter()
        self._answer_by = self._deadlines.response
        self._number = number = self._forwarder.next_number()
        self._outgoing = request_head(request, self.origin, number)

    def _take_body(self, body: RequestBody, data: bytes) -> bytes:
        """The part of `data` that belongs to the request's body; the rest is kept."""
        part = body.feed(data)
        if body.done:
            self._buffer = body.rest
            self.body = None
        return part

    def _read_body(self, body: RequestBody, data: bytes) -> None:
        try:
            part = self._take_body(body, data)
        except ProtocolError as error:
            self._abort_upstream()
            self._refuse(error.status, error.reason)
            return
        assert self._upstream is not None  # noqa: S101 - the phase is EXCHANGE
        self._upstream.transport.write(part)
        self._outgoing = b""
        self._touch_body()

    def read_on(self) -> None:
        """Called by Upstream: the backend takes more again. The wait was not the client's."""
        if self.body is not None:
            self.body.start_window()
        self.transport.resume_reading()

    def _touch_body(self) -> None:
        """A body moved on: its clock starts again."""
        if self._phase is _EXCHANGE:
            waiting = self.body is None and not self._status
            deadlines = self._deadlines
            self.deadline = deadlines.response if waiting else deadlines.body_idle

    def _dispatch(self) -> None:
        """Give the request to the backend whose turn it is."""
        assert self.request is not None  # noqa: S101 - it is what is dispatched
        pool = self._forwarder.pick(self.request, self.origin)
        if pool is None:
            self._refuse(503, "no_backend", keep_alive=self._keep_alive)
        else:
            self._give(pool)

    def _give(self, pool: Pool) -> None:
        self._pool = pool
        pool.in_flight += 1
        pool.changed = True
        self._forwarder.live += 1
        # After a connection was lost, only a new one is known not to be stale as well.
        fresh = self._attempts is not None and self._attempts.repeats
        upstream = None if fresh else pool.take()
        if upstream is not None:
            self._exchange(upstream)
            return
        self.deadline = self._deadlines.response
        if self.body is not None and self._phase is not _CONNECT:
            self.transport.pause_reading()
        self._phase = _CONNECT
        self._forwarder.connect(pool, self)

    def _give_again(self, pool: Pool) -> None:
        self._give(pool)
        self._keep_to_time()

    def _keep_to_time(self) -> None:
        """However often it is tried, and connected: a whole request has one time for all of it."""
        if self.body is None:
            self.deadline = min(self.deadline, self._answer_by)

    def connected(self, upstream: Upstream, duration_s: float) -> None:
        """Called by Forwarder.connect: the connection that was asked for."""
        if self._phase is not _CONNECT or self._closed or self._pool is not upstream.pool:
            upstream.pool.release(upstream, self._deadlines.upstream_idle)
            return
        self._connect_s += duration_s
        self._exchange(upstream)
        self._keep_to_time()

    def connect_failed(self, pool: Pool, reason: str) -> None:
        """Called by Forwarder.connect: nothing was sent, so another backend may have it."""
        if self._phase is not _CONNECT or self._closed or self._pool is not pool:
            return
        self._settle()
        another = self._tries().after_refusal(pool)
        if another is None:
            self._refuse(502, reason)
            return
        pool.retries["connect"] += 1
        self._give_again(another)

    def _exchange(self, upstream: Upstream) -> None:
        request, deadlines = self.request, self._deadlines
        if self.body is None:  # all of it is sent now: from here on it is the backend's time
            repeatable = request is not None and request.repeatable
            self.deadline = deadlines.silence if repeatable else deadlines.response
        else:
            self.deadline = deadlines.body_idle
            self.body.start_window()
            if self._phase is _CONNECT:
                self.transport.resume_reading()
        self._phase = _EXCHANGE
        self._upstream = upstream
        self._heard = upstream.pool.heard
        upstream.begin(self)
        upstream.transport.write(self._outgoing)
        if self._write_paused:
            upstream.pause()

    def _tries(self) -> Attempts:
        assert self.request is not None  # noqa: S101 - only a request can have failed
        if self._attempts is None:
            self._attempts = Attempts(self._forwarder, self.request, self.origin)
        return self._attempts

    # The response; called by Upstream.

    def answered(self, response: Response, message: bytes) -> None:
        """The whole answer to a simple request: `message` goes out as it is.

        The upstream connection is back in its pool already, and must not be paused by a write
        that fills our buffer.
        """
        self._upstream = None
        self.transport.write(message)
        self._status = response.status
        self._sent_bytes = response.length
        self.finished()

    def interim(self, response: Response) -> None:
        """A 1xx on the way to the final response. HTTP/1.0 knows none."""
        if self.body is not None:
            self.body.start_window()  # it may have been what the client was waiting for
            self.deadline = self._deadlines.body_idle
        if self.minor == 1:
            self.transport.write(response_head(response, minor=1, keep_alive=True))

    def respond(self, response: Response) -> None:
        """The head of the final response."""
        minor = self.minor
        self._answering(response)
        if self._keep_alive:
            bounded = response_outlives_connection(response, minor)
            self._keep_alive = bounded and self.body is None and not self._forwarder.draining
        head = response_head(response, minor=minor, keep_alive=self._keep_alive)
        if self._forwarder.router.sticky:
            head = self._with_cookie(head)
        self.transport.write(self._finish_head(head))
        self._touch_body()

    def _finish_head(self, head: bytes) -> bytes:
        """A final response's, as this kind of client gets it."""
        return head

    def _with_cookie(self, head: bytes) -> bytes:
        assert self.request is not None  # noqa: S101 - it is being answered
        assert self._pool is not None  # noqa: S101
        line = self._forwarder.router.cookie_line(self.request, self._pool)
        return head[:-2] + line + head[-2:] if line else head

    def _answering(self, response: Response) -> None:
        self._status = response.status
        self._first_byte_s = perf_counter() - self._started
        self._outgoing = b""

    def switch(self, response: Response) -> None:
        """A 101 that was asked for: from here on bytes go both ways, whatever they mean."""
        upstream = self._upstream
        assert upstream is not None  # noqa: S101 - it is who calls
        self._answering(response)
        self._keep_alive = False
        self._phase = _TUNNEL
        self.deadline = self._deadlines.tunnel_idle
        self.transport.write(response_head(response, minor=1, keep_alive=True))
        early, self._buffer = self._buffer, b""
        if early:
            if not upstream.clogged:
                self.transport.resume_reading()
            upstream.transport.write(early)
        if self._eof:
            upstream.end_of_input()

    def forward(self, data: bytes) -> None:
        """A part of the response's body, or of what a tunnel carries."""
        if data:
            self._sent_bytes += len(data)
            self.transport.write(data)
            deadlines = self._deadlines
            tunnel = self._phase is _TUNNEL
            self.deadline = deadlines.tunnel_idle if tunnel else deadlines.body_idle

    def end_of_output(self) -> bool:
        """The backend's end of a tunnel sends no more; returns whether the client still may."""
        if self._eof:
            assert self._upstream is not None  # noqa: S101 - it is who calls
            self._upstream.end_of_input()
            return False
        if not self.transport.is_closing():
            self.transport.write_eof()
        return True

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
        pool, request = upstream.pool, self.request
        assert request is not None  # noqa: S101 - an exchange has one
        self._settle()
        if self._status:
            if self._phase is not _TUNNEL:
                self._forwarder.suspect(pool, None, upstream)
            self.abort()
            return
        rested = untouched and upstream.served > 0  # it may just have been closed for that
        safe = untouched and request.repeatable
        stale = safe and rested
        if not stale:
            self._forwarder.suspect(pool, None if rested else Failure.CONNECT, upstream)
        another = self._tries().after_loss(pool, stale=stale) if safe else None
        if another is None:
            self._refuse(502, "upstream_closed")
            return
        pool.retries["stale" if stale else "closed"] += 1
        self._give_again(another)

    def broken_response(self, upstream: Upstream, reason: str) -> None:
        """What the backend sent is no HTTP."""
        self._upstream = None
        upstream.transport.abort()
        self._settle()
        self._forwarder.suspect(upstream.pool, Failure.ANSWER, upstream)
        self._refuse(502, reason)

    # The end of a request or of the connection.

    def expired(self) -> None:
        """Called by the forwarder's sweep: the deadline passed."""
        phase, upstream, pool = self._phase, self._upstream, self._pool
        if phase is _HEAD and self._started:
            self._refuse(408, "head_timeout")
        elif phase is _TURNED:
            self._tell_verdict()
        elif phase is _HEAD:
            self._end_connection(discard=False)
        elif phase is _LINGER and self._is_being_read():
            self.deadline = min(self._deadlines.linger, self._answer_by)
        elif phase in (_LINGER, _TUNNEL) or self._status:
            self.abort()
        elif self.body is not None and upstream is not None and not upstream.clogged:
            self._abort_upstream()
            self._refuse(408, "body_timeout")
        elif not self._goes_on():
            self._abort_upstream()
            if pool is not None:
                self._forwarder.suspect(pool, Failure.TIMEOUT, upstream)
            self._refuse(504, "response_timeout")

    def _is_being_read(self) -> bool:
        """Whether some of our last words are still to be sent, and have the time for it. (Just
        written, they always are.)
        """
        unsent = self.transport.get_write_buffer_size()
        return bool(unsent) and self._answer_by > self._deadlines.now

    def _goes_on(self) -> bool:
        """Whether the wait for a response goes on: at another backend if this one is silent,
        else here for the rest of its time.
        """
        request, pool, upstream = self.request, self._pool, self._upstream
        if request is None or pool is None or not request.repeatable:
            return False
        if upstream is None or not upstream.untouched:
            return self._wait(self._answer_by)
        deadlines = self._deadlines
        late = self._answer_by <= deadlines.now
        if late and deadlines.silence < deadlines.response:
            return False
        talked = pool.heard != self._heard and pool.is_of_now(upstream)
        if talked and pool.silent_at > deadlines.now:
            return self._wait(pool.silent_at)
        tries = self._tries()
        another = tries.after_silence(pool)
        if another is None:
            return self._wait(self._answer_by if tries.spent else deadlines.silence)
        self._forwarder.suspect(pool, Failure.TIMEOUT, upstream)
        pool.retries["silent"] += 1
        self._abort_upstream()
        self._settle()
        if late:  # a try may take as long as an answer: then each may
            self._answer_by = deadlines.response
        self._give_again(another)
        return True

    def _wait(self, until: float) -> bool:
        """Until then, or the end of the time for a response; whether that is still to come."""
        self.deadline = min(until, self._answer_by)
        return self._answer_by > self._deadlines.now

    def _turn_away(self, verdict: str) -> None:
        self._phase = _TURNED
        self._verdict = verdict
        self.deadline = self._deadlines.linger

    def _tell_verdict(self) -> None:
        self._phase = _HEAD
        self._refuse(403 if self._verdict == "denied" else 503, self._verdict)

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

    def _refuse(
        self,
        status: int,
        reason: str,
        *,
        keep_alive: bool = False,
        retry_after_s: int = 0,
        location: bytes = b"",
    ) -> None:
        """Answer ourselves; unless told otherwise the connection ends with it."""
        forwarder = self._forwarder
        forwarder.refused[reason] += 1
        if self._phase is _HEAD:
            self._number = forwarder.next_number()  # its id in the log; no backend has seen it
        self._settle()
        if self._status:
            self.abort()
            return
        self._keep_alive = keep_alive and self.body is None and not forwarder.draining
        answer = own_response(
            status,
            reason.replace("_", " "),
            forwarder.date,
            minor=self.minor,
            keep_alive=self._keep_alive,
            head_only=self.method == b"HEAD",
            retry_after_s=retry_after_s,
            location=location,
        )
        end = answer.index(HEAD_END) + len(HEAD_END)
        self.transport.write(self._finish_head(answer[:end]) + answer[end:])
        self._log(status, len(answer) - end, None)
        self._end_request()

    def _end_request(self) -> None:
        refused_head = self._phase is _HEAD
        unread = bool(self.body or (self._buffer and not self._eof))
        self.request = None
        self._outgoing = b""
        self.body = None
        self._status = 0
        self._sent_bytes = 0
        self._started = 0.0
        self._connect_s = 0.0
        self._first_byte_s = 0.0
        self._end_attempts()
        if self._keep_alive and (self._buffer or not self._eof):
            self._phase = _HEAD
            self.deadline = self._deadlines.client_idle
            if self._buffer and not self._write_paused:
                # Not at once: a pipeline of refused requests must not become a recursion.
                self._forwarder.loop.call_soon(self._next_request)
        else:
            self._end_connection(discard=unread or refused_head)

    def _end_attempts(self) -> None:
        if self._attempts is not None:
            self._attempts.close()
            self._attempts = None

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
        self.deadline = self._deadlines.linger
        self._answer_by = self._deadlines.body_idle
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
        self._forwarder.live -= 1
        status = self._status
        if status:
            ended = perf_counter()
            pool.record(status, ended - self._started)
            if status < 500:
                pool.failures = 0
            else:
                self._forwarder.failed(pool, Failure.ANSWER)
            if self._forwarder.access_log is not None:
                self._log(status, self._sent_bytes, pool.backend)
        if not pool.in_flight:
            self._forwarder.settled(pool)

    def _log(self, status: int, body_bytes: int, backend: Backend | None) -> None:
        log = self._forwarder.access_log
        if log is not None:
            retries = self._attempts.count if self._attempts is not None else 0
            log.add((
                perf_counter(), self._started, self.origin, self.request, self._number, status,
                body_bytes, self._connect_s, self._first_byte_s, backend, retries,
            ))  # fmt: skip
