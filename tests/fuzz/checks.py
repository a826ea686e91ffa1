"""What must hold for any bytes: each function takes some and raises AssertionError if it does not.

Only ProtocolError may be raised by the readers, with a status of the table; a message reads the
same however it is cut; what is accepted reads the same to h11; and what is written for the next
hop is read back there, by lbctl and by h11, as what was understood.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import h11

from lbctl.core.chunked import ChunkedBody
from lbctl.core.forwarding import request_head, response_head, response_outlives_connection
from lbctl.core.http1 import (
    CHUNKED,
    HEAD_END,
    UNTIL_CLOSE,
    head_end,
    parse_request,
)
from lbctl.core.memo import Memo
from lbctl.core.origin import Hop, Origin, networks
from lbctl.errors import ProtocolError
from tests.fuzz.readers import (
    HEAD_LIMIT_FIELDS,
    Body,
    KnownDifferenceError,
    Reading,
    h11_request,
    h11_response,
    read_request,
    read_response,
    reading_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl.core.http1 import Request, Response

M = TypeVar("M", "Request", "Response")

REQUEST_STATUSES = {400, 414, 431, 501, 505}
RESPONSE_STATUSES = {502}
ADDED_FIELDS = 16
"""More than this hop adds to a head."""

_REASON = re.compile(r"[a-z_]{3,30}").fullmatch
_HOP = Hop("lbctl-1", "w-", networks("10.0.0.0/8"))
_ORIGINS = (Origin(_HOP, "192.0.2.7", "http"), Origin(_HOP, "10.0.0.1", "http"))
_WEBSOCKET = frozenset((b"websocket",))


def cut(data: bytes, size: int) -> list[bytes]:
    """`data` in pieces of `size` bytes; 0: in one."""
    return [data[at : at + size] for at in range(0, len(data), size)] if size else [data]


def documented(error: ProtocolError, statuses: set[int]) -> None:
    """An error that is known, and a label that is no place for bytes of the peer."""
    assert error.status in statuses, f"{error.status} {error.reason}"
    assert _REASON(error.reason), error.reason


def check_request(data: bytes, sizes: Sequence[int]) -> Request | None:
    """All that must hold of a request, cut into pieces of each of these sizes; what was read."""

    def read(pieces: list[bytes]) -> tuple[Request, Body] | None:
        return read_request(pieces)

    seen = _same_in_pieces(data, sizes, read, REQUEST_STATUSES)
    if seen is None:
        return None
    request, body = seen
    _check_memory(request)
    _agree(reading_of(request, body), h11_request, data)
    request.upgrade &= _WEBSOCKET
    for origin in _ORIGINS:
        _check_forwarded(request, request_head(request, origin, 42), body)
    return request


def check_response(data: bytes, method: bytes, sizes: Sequence[int]) -> Response | None:
    """The same for a response to `method`."""

    def read(pieces: list[bytes]) -> tuple[Response, Body] | None:
        return read_response(pieces, method)

    seen = _same_in_pieces(data, sizes, read, RESPONSE_STATUSES)
    if seen is None:
        return None
    response, body = seen
    _agree(reading_of(response, body), lambda one: h11_response(one, method), data)
    for minor in (0, 1):
        _check_answered(response, method, minor, body)
    return response


def check_chunks(data: bytes, sizes: Sequence[int], limit_bytes: int) -> bool:
    """What must hold of a chunked body; whether it was accepted, as far as it came."""
    outcomes: list[tuple[bool, bytes, bytes] | None] = []
    for size in (0, *sizes):
        body = ChunkedBody(400, limit_bytes)
        passed, unfed = b"", cut(data, size)
        try:
            while unfed and not body.done:
                passed += body.feed(unfed.pop(0))
        except ProtocolError as error:
            documented(error, {400})
            outcomes.append(None)
        else:
            outcomes.append((body.done, passed, body.rest + b"".join(unfed)))
        # Whatever was passed on, the next hop takes: nothing of a doubtful line is in it.
        assert ChunkedBody(400, limit_bytes).feed(passed) == passed
    assert all(one == outcomes[0] for one in outcomes), outcomes
    return outcomes[0] is not None


def check_head_end(data: bytes, limit_bytes: int) -> None:
    """A head ends at its first empty line, which is within the limit."""
    try:
        end = head_end(data, limit_bytes)
    except ProtocolError as error:
        documented(error, {400, 414, 431})
        return
    empty_line = data.find(HEAD_END)
    assert end == (0 if empty_line < 0 else empty_line + len(HEAD_END))
    assert (end or len(data)) <= limit_bytes
    if end:
        with suppress(ProtocolError):
            assert head_end(data[: end - 1], limit_bytes) == 0


def _same_in_pieces(
    data: bytes,
    sizes: Sequence[int],
    read: Callable[[list[bytes]], tuple[M, Body] | None],
    statuses: set[int],
) -> tuple[M, Body] | None:
    """What `read` makes of `data`; None if it refuses or waits for more.

    In pieces a flaw may be found earlier, and another one of several, so only whether there is
    one is compared.
    """
    seen: list[tuple[M, Body] | None] = []
    readings: list[Reading | str] = []
    for size in (0, *sizes):
        try:
            one = read(cut(data, size))
        except ProtocolError as error:
            documented(error, statuses)
            one = None
            readings.append("refused")
        else:
            readings.append("unfinished" if one is None else reading_of(*one))
        seen.append(one)
    assert all(reading == readings[0] for reading in readings), readings
    return seen[0]


def _agree(mine: Reading, read: Callable[[bytes], Reading], data: bytes) -> None:
    with suppress(KnownDifferenceError):
        try:
            theirs = read(data)
        except h11.RemoteProtocolError as error:
            raise AssertionError(f"lenient where h11 is strict: {error}") from error
        assert theirs == mine, f"{theirs} and {mine}"


def _check_memory(request: Request) -> None:
    """Fields that were met before, behind another first line, are read the same."""
    hosts: Memo[bytes] = Memo()
    with suppress(ProtocolError):
        first_line_end = request.raw.index(b"\r\n")
        parse_request(b"GET / HTTP/1.1" + request.raw[first_line_end:], HEAD_LIMIT_FIELDS, hosts)
    again = parse_request(request.raw, HEAD_LIMIT_FIELDS, hosts)
    for name in ("method", "target", "minor", "host", "length", "keep_alive", "plain", "fields"):
        assert getattr(again, name) == getattr(request, name), name


def _check_forwarded(request: Request, head: bytes, body: Body) -> None:
    """A backend has to find in `head` and the body what was found in the request."""
    again = parse_request(head, HEAD_LIMIT_FIELDS + ADDED_FIELDS)
    assert (again.method, again.target, again.host, again.length, again.minor) == (
        request.method, request.target, request.host, request.length, 1,
    )  # fmt: skip
    with suppress(KnownDifferenceError):
        theirs = h11_request(head + body.passed)
        assert theirs.start == (request.method, request.target)
        assert (theirs.minor, theirs.length, theirs.body, theirs.rest) == (
            1, request.length, body.data, b"",
        )  # fmt: skip
        assert theirs.complete is body.complete


def _check_answered(response: Response, method: bytes, minor: int, body: Body) -> None:
    """So has a client of HTTP/1.`minor`, in what it gets."""
    if response.status < 200 and minor == 0:
        return  # never sent
    keep_alive = response.keep_alive and response_outlives_connection(response, minor)
    head = response_head(response, minor=minor, keep_alive=keep_alive)
    decoded = response.length == CHUNKED and minor == 0
    with suppress(KnownDifferenceError):
        theirs = h11_response(head + (body.data if decoded else body.passed), method)
        length = UNTIL_CLOSE if decoded else response.length
        assert (theirs.start, theirs.length) == ((b"%d" % response.status,), length)
        assert (theirs.body, theirs.rest) == (body.data, b"")
        assert decoded or theirs.complete is body.complete
