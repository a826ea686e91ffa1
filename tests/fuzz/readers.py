"""Two readers of the same bytes: core/http1 and chunked, fed as by a connection, and h11.

h11 differs on purpose in two things that lbctl takes: it refuses white space before the semicolon
of a chunk extension, and leaves an absolute target as it is. In all else it may be laxer only: it
takes bare LF, obs-fold, control characters in values, a Content-Length that is said twice or
beside a Transfer-Encoding, chunks in HTTP/1.0, and any host, target, chunk extension and trailer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11

from lbctl.core.chunked import ChunkedBody
from lbctl.core.http1 import (
    CHUNKED,
    HEAD_END,
    NO_BODY,
    UNTIL_CLOSE,
    Request,
    Response,
    head_end,
    parse_request,
    parse_response,
    without_empty_lines,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD_LIMIT_BYTES = 2048
HEAD_LIMIT_FIELDS = 20
# White space before a chunk extension's semicolon, which RFC 9112, section 7.1.1, allows.
_SPACED_EXTENSION = re.compile(rb"[0-9A-Fa-f][\t ]+;").search
_ABSOLUTE = re.compile(rb"(?i)https?://[^/?]*").match


@dataclass(frozen=True, slots=True)
class Reading:
    """One message as a reader understands it, as far as it has come.

    `start` is method and target, or the status; `length` that of core/http1; `body` the data
    without chunk lines; `rest` what came behind the message, if it is `complete`.
    """

    start: tuple[bytes, ...]
    minor: int
    length: int
    body: bytes
    complete: bool
    rest: bytes


class Body:
    """A message's body, in pieces; `passed` is what a proxy would send on by now."""

    def __init__(self, length: int, status: int) -> None:
        self._length = length
        self._wire = ChunkedBody(status, HEAD_LIMIT_BYTES)
        self._decoder = ChunkedBody(status, HEAD_LIMIT_BYTES, decode=True)
        self.passed = b""
        self.data = b""
        self.rest = b""

    @property
    def complete(self) -> bool:
        if self._length == CHUNKED:
            return self._wire.done
        return self._length != UNTIL_CLOSE and len(self.data) == self._length

    def feed(self, piece: bytes) -> None:
        """Raises ProtocolError."""
        if self.complete:
            self.rest += piece
        elif self._length == CHUNKED:
            self.passed += self._wire.feed(piece)
            self.data += self._decoder.feed(piece)
            self.rest = self._wire.rest
            assert (self._decoder.done, self._decoder.rest) == (self._wire.done, self._wire.rest)
        else:
            end = len(piece) if self._length == UNTIL_CLOSE else self._length - len(self.data)
            self.data += piece[:end]
            self.passed = self.data
            self.rest = piece[end:]


def read_request(pieces: Iterable[bytes]) -> tuple[Request, Body] | None:
    """The first request in these pieces; None: its head is not whole. Raises ProtocolError."""
    request, body, held = None, None, b""
    for piece in pieces:
        if body is not None:
            body.feed(piece)
            continue
        held = without_empty_lines(held + piece)
        end = head_end(held, HEAD_LIMIT_BYTES)
        if end:
            request = parse_request(held[:end], HEAD_LIMIT_FIELDS)
            body = Body(request.length, 400)
            body.feed(held[end:])
    return None if request is None or body is None else (request, body)


def read_response(pieces: Iterable[bytes], method: bytes) -> tuple[Response, Body] | None:
    """The same for a response to `method`."""
    response, body, held = None, None, b""
    for piece in pieces:
        if body is not None:
            body.feed(piece)
            continue
        held += piece
        end = held.find(HEAD_END) + len(HEAD_END)
        if end >= len(HEAD_END):
            response = parse_response(held[:end], method, HEAD_LIMIT_FIELDS)
            body = Body(response.length, 502)
            body.feed(held[end:])
    return None if response is None or body is None else (response, body)


def reading_of(message: Request | Response, body: Body) -> Reading:
    start = (
        (message.method, message.target)
        if isinstance(message, Request)
        else (b"%d" % message.status,)
    )
    return Reading(start, message.minor, message.length, body.data, body.complete, body.rest)


class KnownDifferenceError(Exception):
    """h11 reads it differently or not at all, for a reason that is known and right."""


def h11_request(data: bytes) -> Reading:
    """What h11 reads.

    Raises h11.RemoteProtocolError if it refuses, KnownDifferenceError where it may.
    """
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(without_empty_lines(data))  # h11 takes them for a message
    event = connection.next_event()
    assert isinstance(event, h11.Request), "a whole head is no request to h11"
    start = (event.method, _origin_form(event.method, event.target))
    length = _length(event.headers, NO_BODY)
    return _with_body(connection, data, start, event.http_version, length)


def h11_response(data: bytes, method: bytes) -> Reading:
    """The same for the first response to `method`, be it an interim one."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", "h"), ("Connection", "upgrade"), ("Upgrade", "websocket")]
    connection.send(h11.Request(method=method, target="/", headers=headers))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    event = connection.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse), "no response to h11"
    start = (b"%d" % event.status_code,)
    status = event.status_code
    if status < 200:
        rest = data[data.index(HEAD_END) + len(HEAD_END) :]
        return Reading(start, _minor(event.http_version), NO_BODY, b"", complete=True, rest=rest)
    bodiless = method == b"HEAD" or status in (204, 304)
    length = NO_BODY if bodiless else _length(event.headers, UNTIL_CLOSE)
    return _with_body(connection, data, start, event.http_version, length)


def _with_body(
    connection: h11.Connection, data: bytes, start: tuple[bytes, ...], version: bytes, length: int
) -> Reading:
    body = b""
    try:
        event = connection.next_event()
        while isinstance(event, h11.Data):
            body += bytes(event.data)
            event = connection.next_event()
    except h11.RemoteProtocolError:
        if length == CHUNKED and _SPACED_EXTENSION(data):
            raise KnownDifferenceError("white space before a chunk extension") from None
        raise
    complete = isinstance(event, h11.EndOfMessage)
    rest = bytes(connection.trailing_data[0]) if complete else b""
    return Reading(start, _minor(version), length, body, complete, rest)


def _minor(version: bytes) -> int:
    assert version in (b"1.0", b"1.1")
    return int(version[2:])


def _length(headers: Iterable[tuple[bytes, bytes]], absent: int) -> int:
    said = [value for name, value in headers if name == b"content-length"]
    if any(name == b"transfer-encoding" for name, _ in headers):
        assert not said, "a length beside a coding"
        return CHUNKED
    return int(said[0]) if said else absent


def _origin_form(method: bytes, target: bytes) -> bytes:
    """h11 leaves an absolute target as it is; lbctl needs its path (RFC 9112, section 3.2.1)."""
    absolute = _ABSOLUTE(target)
    if absolute is None:
        return target
    path = target[absolute.end() :]
    if not path:
        return b"*" if method == b"OPTIONS" else b"/"
    return path if path.startswith(b"/") else b"/" + path
