"""What of a message is passed on, and what is added (RFC 9110, section 7.6; RFC 9112).

One serialiser serves both kinds of heads: plain ones go on as they are, followed by the
lines of this hop; the others are written anew from their fields. Hop-by-hop fields end here;
what the other side claims about origins is in core/origin.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.core.http1 import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    connection_options,
    upgrade_protocols,
)

if TYPE_CHECKING:
    from lbctl.core.http1 import Request, Response
    from lbctl.core.origin import Origin

_CLOSE = b"Connection: close\r\n"
_KEEP_ALIVE = b"Connection: keep-alive\r\n"

# Of this connection only. Content-Length and Transfer-Encoding are written from the length
# that was understood, so that what is forwarded is what was checked.
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"upgrade",
        b"content-length",
        b"transfer-encoding",
    )
)
_NOT_FOR_BACKENDS = _HOP_BY_HOP | {
    b"host",  # written from what was understood: an absolute target says it too
    b"http2-settings",
    b"max-forwards",
    b"proxy",  # becomes HTTP_PROXY in a CGI's environment ("httpoxy", CVE-2016-5385)
}
# A Connection header must not make us drop what the next hop relies on.
_NOT_FOR_CONNECTION_TO_NAME = frozenset(
    (b"authorization", b"cache-control", b"cookie", b"set-cookie", b"via")
)

_REASONS = {
    200: b"OK",
    308: b"Permanent Redirect",
    400: b"Bad Request",
    403: b"Forbidden",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
    508: b"Loop Detected",
}


def request_head(request: Request, origin: Origin, number: int) -> bytes:
    """The head for the backend: HTTP/1.1, this hop's lines last.

    `number` is this worker's of the request: with it the X-Request-Id is made, where none is
    kept. What does not depend on the client is written once a Request.
    """
    if origin.trusted:
        return _written(request, origin) + origin.lines_after(request, number)
    return b"%b%b%x\r\n\r\n" % (
        request.forwarded or _prepared(request, origin),
        origin.lines,
        number,
    )


def _prepared(request: Request, origin: Origin) -> bytes:
    start = request.raw[:-2] if request.plain else _written(request, origin)
    request.forwarded = b"%bX-Forwarded-Host: %b\r\n" % (start, request.host)
    request.release_fields()
    return request.forwarded


def _written(request: Request, origin: Origin) -> bytes:
    """The head up to what this hop says about the client."""
    fields = request.fields
    options = connection_options(fields)
    dropped = options - _NOT_FOR_CONNECTION_TO_NAME
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (request.method, request.target, request.host)]
    lines += [
        b"%b: %b\r\n" % (name, value)
        for name, value in fields
        if name not in _NOT_FOR_BACKENDS and name not in dropped and not origin.replaces(name)
    ]
    left = hops_left(request)
    if left is not None:
        lines.append(b"Max-Forwards: %d\r\n" % (left - 1))
    if request.upgrade:
        asked = b", ".join(sorted(request.upgrade))
        lines.append(b"Connection: upgrade\r\nUpgrade: %b\r\n" % asked)
    if request.length == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif request.length != NO_BODY or any(name == b"content-length" for name, _ in fields):
        lines.append(b"Content-Length: %d\r\n" % request.length)
    return b"".join(lines)


def hops_left(request: Request) -> int | None:
    """Max-Forwards of OPTIONS and TRACE, the only methods it is for (RFC 9110, section 7.6.2)."""
    if request.plain or request.method not in (b"OPTIONS", b"TRACE"):
        return None
    said = [value for name, value in request.fields if name == b"max-forwards"]
    return int(said[0]) if len(said) == 1 and said[0].isdigit() and len(said[0]) < 10 else None


def response_head(response: Response, *, minor: int, keep_alive: bool) -> bytes:
    """The head for the client, who speaks HTTP/1.`minor` and is told when we will close.

    The status line says HTTP/1.1, our own version (RFC 9110, section 2.5).
    """
    if response.plain and keep_alive and minor == 1:
        return response.raw
    if response.plain:
        connection = (
            b"Connection: keep-alive\r\n\r\n" if keep_alive else b"Connection: close\r\n\r\n"
        )
        return response.raw[:-2] + connection
    dropped = connection_options(response.fields) - _NOT_FOR_CONNECTION_TO_NAME
    reason = response.raw[13 : response.raw.index(b"\r\n")]  # behind "HTTP/1.x 200 "
    lines = [b"HTTP/1.1 %d %b\r\n" % (response.status, reason)]
    lines += [
        b"%b: %b\r\n" % (name, value)
        for name, value in response.fields
        if name not in _HOP_BY_HOP and name not in dropped
    ]
    lines += [
        b"Content-Length: %b\r\n" % value
        for name, value in response.fields
        if name == b"content-length" and response.status >= 200 and response.status != 204
    ]
    if response.length == CHUNKED and minor == 1:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if response.status == 101:
        chosen = b", ".join(sorted(upgrade_protocols(response.fields)))
        lines.append(b"Connection: upgrade\r\nUpgrade: %b\r\n" % chosen)
    if response.status >= 200:
        if not keep_alive:
            lines.append(_CLOSE)
        elif minor == 0:
            lines.append(_KEEP_ALIVE)
    lines.append(b"\r\n")
    return b"".join(lines)


def response_outlives_connection(response: Response, minor: int) -> bool:
    """Whether the client can tell where this response ends without our closing."""
    return response.length != UNTIL_CLOSE and (response.length != CHUNKED or minor == 1)


def own_response(
    status: int,
    detail: str,
    date: bytes,
    *,
    minor: int,
    keep_alive: bool,
    head_only: bool = False,
    retry_after_s: int = 0,
    location: bytes = b"",
) -> bytes:
    """An answer of the lb itself: plain text, one line. A 503 says when to come again, and so
    does whatever has a `retry_after_s` (RFC 9110, section 10.2.3); a 308 says where.
    """
    if status == 503:
        retry_after_s = retry_after_s or 1
    connection = _CLOSE if not keep_alive else _KEEP_ALIVE if minor == 0 else b""
    reason = _REASONS[status]
    body = b"%d %b: %b\n" % (status, reason, detail.encode("ascii", "replace"))
    return (
        b"HTTP/1.1 %d %b\r\nDate: %b\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: %d\r\n%b%b\r\n%b"
        % (
            status,
            reason,
            date,
            len(body),
            (b"Location: %b\r\n" % location if location else b"")
            + (b"Retry-After: %d\r\n" % retry_after_s if retry_after_s else b""),
            connection,
            b"" if head_only else body,
        )
    )
