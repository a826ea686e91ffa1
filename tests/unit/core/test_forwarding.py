"""What of a message goes on: the same meaning, minus this hop, plus what this hop knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core import forwarding
from lbctl.core.forwarding import (
    own_response,
    response_head,
    response_outlives_connection,
)
from lbctl.core.http1 import Request, Response, parse_request, parse_response
from lbctl.core.origin import Hop, Origin

ORIGIN = Origin(Hop("lbctl-1", "w-"), "192.0.2.7", "http")
ADDED = (
    b"X-Forwarded-Host: %b\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n"
    b"Forwarded: for=192.0.2.7;proto=http\r\nVia: 1.1 lbctl-1\r\nX-Request-Id: w-2a\r\n\r\n"
)


def request_head(request: Request) -> bytes:
    """As the first client's 42nd request."""
    return forwarding.request_head(request, ORIGIN, 42)


def forwarded(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> list[bytes]:
    """The lines that a backend gets between the first and those that are added."""
    raw = b"\r\n".join((start, b"Host: h", *lines, b"", b""))
    head = request_head(parse_request(raw, 100))
    first, _, rest = head.partition(b"\r\n")
    assert first.endswith(b" HTTP/1.1")
    assert rest.endswith(ADDED % b"h")
    return rest[: -len(ADDED % b"h")].split(b"\r\n")[1:-1]


def meaning(head: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """First line and fields, without what may differ: order, case and space around."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    fields = [line.partition(b":") for line in lines]
    return first, sorted((name.lower(), value.strip(b" \t")) for name, _, value in fields)


# Requests.


def test_a_plain_head_goes_on_as_it_is() -> None:
    raw = b"GET /x HTTP/1.1\r\nHost: h\r\nAccept:*/*\r\n\r\n"
    assert request_head(parse_request(raw, 100)) == raw[:-2] + ADDED % b"h"


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: close", b"Keep-Alive: 5", b"Proxy-Connection: x", b"Proxy: http://evil",
        b"TE: trailers", b"Upgrade: h2c", b"HTTP2-Settings: AA", b"X-Forwarded-For: 6.6.6.6",
        b"X-Request-Id: x", b"x_request_id: x", b"X_Forwarded_For: 6.6.6.6",
        b"x-forwarded_host: evil", b"X-Forwarded: for=6.6.6.6",
        b"X-Forwarded-Client-Cert: x", b"Forwarded: for=6.6.6.6",
    ],
)  # fmt: skip
def test_what_ends_at_this_hop(line: bytes) -> None:
    assert forwarded(line) == []
    assert forwarded(line, b"X: y") == [b"x: y"]


@pytest.mark.parametrize(
    "line",
    [
        b"expect: 100-continue", b"trailer: digest", b"proxy-authorization: x", b"via: 1.0 x",
        b"cookie: x", b"x-forward: y", b"authorization: x",
    ],
)  # fmt: skip
def test_what_goes_on(line: bytes) -> None:
    assert forwarded(line) == [line] or request_head(
        parse_request(b"GET / HTTP/1.1\r\nHost: h\r\n" + line + b"\r\n\r\n", 100)
    ).startswith(b"GET / HTTP/1.1\r\nHost: h\r\n" + line)


def test_what_connection_names_is_dropped_unless_others_rely_on_it() -> None:
    named = (
        b"Connection: X-Mine, host, AUTHORIZATION, cookie, via, cache-control, x-forwarded-for,"
        b" content-length, x-forwarded-proto"
    )
    kept = [b"authorization: a", b"cookie: c", b"via: v", b"cache-control: no-store"]
    assert forwarded(named, b"X-Mine: y", *kept, b"Content-Length: 3") == [
        *kept, b"Content-Length: 3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b"Content-Length: 007"], [b"Content-Length: 7"]),
        ([b"Content-Length: 0"], [b"Content-Length: 0"]),
        ([b"transfer-encoding: Chunked"], [b"Transfer-Encoding: chunked"]),
        ([b"TE: x"], []),
    ],
)
def test_the_length_is_said_as_it_was_understood(lines: list[bytes], expected: list[bytes]) -> None:
    assert forwarded(*lines, start=b"POST / HTTP/1.1") == expected


def test_http_1_0_goes_on_as_1_1() -> None:
    assert forwarded(b"X: y", start=b"GET / HTTP/1.0") == [b"x: y"]


def test_an_absolute_target_goes_on_in_origin_form() -> None:
    raw = b"GET http://H/x HTTP/1.1\r\nHost: h\r\n\r\n"
    head = request_head(parse_request(raw, 100))
    assert head == b"GET /x HTTP/1.1\r\nHost: H\r\n" + ADDED % b"H"


_NAMES = st.sampled_from(
    [b"Accept", b"X-Y", b"x_y", b"Cookie", b"Viaduct", b"Server", b"Allow", b"Set-Cookie"]
)
_VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=8
).map(lambda text: text.encode("latin-1").strip())
_FIELDS = st.lists(st.tuples(_NAMES, _VALUES), max_size=6)


@given(_FIELDS)
def test_the_plain_and_the_careful_way_mean_the_same_to_a_backend(
    fields: list[tuple[bytes, bytes]],
) -> None:
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    raw = b"GET /x?y HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n"
    plain = parse_request(raw, 100)
    # The one field more ends here, so it changes the way and nothing else.
    careful = parse_request(raw[:-2] + b"Connection: x-none\r\n\r\n", 100)
    assert (plain.plain, careful.plain) == (True, False)
    assert meaning(request_head(plain)) == meaning(request_head(careful))


@given(_FIELDS, st.sampled_from([200, 206, 301, 304, 404, 500]), st.booleans(), st.integers(0, 1))
def test_and_to_a_client(
    fields: list[tuple[bytes, bytes]], status: int, keep_alive: bool, minor: int
) -> None:
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    raw = b"HTTP/1.1 %d OK\r\nContent-Length: 45\r\n%b\r\n" % (status, lines)
    plain = parse_response(raw, b"GET", 100)
    careful = parse_response(raw[:-2] + b"Connection: x-none\r\n\r\n", b"GET", 100)
    assert (plain.plain, careful.plain) == (True, False)
    assert (plain.length, plain.keep_alive) == (careful.length, careful.keep_alive)
    heads = [response_head(one, minor=minor, keep_alive=keep_alive) for one in (plain, careful)]
    assert meaning(heads[0]) == meaning(heads[1])


@given(_FIELDS, st.sampled_from([b"", b"Connection: close\r\n", b"Content-Length: 5\r\n"]))
def test_what_is_forwarded_reads_back_as_what_was_understood(
    fields: list[tuple[bytes, bytes]], extra: bytes
) -> None:
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    seen = parse_request(b"PUT /x HTTP/1.1\r\nHost: h\r\n" + lines + extra + b"\r\n", 100)
    again = parse_request(request_head(seen), 110)
    for name in ("method", "target", "host", "length"):
        assert getattr(again, name) == getattr(seen, name)


# Responses.


def answered(
    *lines: bytes,
    start: bytes = b"HTTP/1.1 200 OK",
    method: bytes = b"GET",
    minor: int = 1,
    keep_alive: bool = True,
) -> bytes:
    raw = b"\r\n".join((start, *lines, b"", b""))
    seen: Response = parse_response(raw, method, 100)
    return response_head(seen, minor=minor, keep_alive=keep_alive)


@pytest.mark.parametrize(
    ("minor", "keep_alive", "connection"),
    [(1, True, b""), (1, False, b"Connection: close\r\n"),
     (0, True, b"Connection: keep-alive\r\n"), (0, False, b"Connection: close\r\n")],
)  # fmt: skip
def test_a_client_is_told_whether_the_connection_stays(
    minor: int, keep_alive: bool, connection: bytes
) -> None:
    length = b"Content-Length: 3"
    plain = answered(length, minor=minor, keep_alive=keep_alive)
    assert plain == b"HTTP/1.1 200 OK\r\n%b\r\n%b\r\n" % (length, connection)
    careful = answered(length, b"Upgrade: h2", minor=minor, keep_alive=keep_alive)
    assert careful == plain


def test_what_of_a_response_ends_at_this_hop() -> None:
    head = answered(
        b"Connection: close, x-mine, set-cookie", b"Keep-Alive: 5", b"X-Mine: y", b"Upgrade: h2",
        b"Set-Cookie: a", b"Set-Cookie: b", b"Content-Length: 3", b"Trailer: x",
    )  # fmt: skip
    assert head == (
        b"HTTP/1.1 200 OK\r\nset-cookie: a\r\nset-cookie: b\r\ntrailer: x\r\n"
        b"Content-Length: 3\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"start": b"HTTP/1.1 204 N"}, b"HTTP/1.1 204 N\r\n\r\n"),
        ({"start": b"HTTP/1.1 304 N"}, b"HTTP/1.1 304 N\r\nContent-Length: 3\r\n\r\n"),
        ({"method": b"HEAD"}, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"),
        ({"start": b"HTTP/1.1 103 E"}, b"HTTP/1.1 103 E\r\n\r\n"),
        ({"start": b"HTTP/1.0 200 OK"}, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"),
    ],
)
def test_where_a_length_is_said(arguments: dict[str, bytes], expected: bytes) -> None:
    start, method = arguments.get("start", b"HTTP/1.1 200 OK"), arguments.get("method", b"GET")
    assert answered(b"Content-Length: 3", start=start, method=method) == expected


def test_chunks_are_announced_to_those_who_know_them() -> None:
    coded = b"Transfer-Encoding: chunked"
    assert answered(coded) == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    old = answered(coded, minor=0, keep_alive=False)
    assert old == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    assert answered(coded, method=b"HEAD") == b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "minor", "outlives"),
    [(b"Content-Length: 3", 0, True), (b"Content-Length: 3", 1, True), (b"X: y", 1, False),
     (b"Transfer-Encoding: chunked", 1, True), (b"Transfer-Encoding: chunked", 0, False)],
)  # fmt: skip
def test_who_can_tell_where_a_response_ends(line: bytes, minor: int, outlives: bool) -> None:
    seen = parse_response(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n", b"GET", 100)
    assert response_outlives_connection(seen, minor) is outlives


# Our own answers.


@pytest.mark.parametrize("status", [400, 408, 413, 414, 431, 501, 502, 503, 504, 505])
@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("keep_alive", [True, False])
def test_our_own_answers_are_good_http(status: int, minor: int, keep_alive: bool) -> None:
    date = b"Sun, 06 Nov 1994 08:49:37 GMT"
    answer = own_response(status, "why é", date, minor=minor, keep_alive=keep_alive)
    head, _, body = answer.partition(b"\r\n\r\n")
    seen = parse_response(head + b"\r\n\r\n", b"GET", 100)
    assert (seen.status, seen.length) == (status, len(body))
    assert body.endswith(b": why ?\n")
    assert (b"Retry-After: 1" in head) is (status == 503)
    assert (b"Connection: close" in head) is (not keep_alive)
    assert (b"Connection: keep-alive" in head) is (keep_alive and minor == 0)
    bare = own_response(status, "why é", date, minor=minor, keep_alive=keep_alive, head_only=True)
    assert bare == head + b"\r\n\r\n"
