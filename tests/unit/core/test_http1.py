"""Heads: every rule of the grammar, in one piece, in any pieces, and with a tail.

h11 serves as a second reader that is known to be strict: what passes here must mean the same
to it.
"""

from __future__ import annotations

from contextlib import suppress

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.http1 import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    Request,
    Response,
    head_end,
    parse_request,
    parse_response,
    upgrade_protocols,
    without_empty_lines,
)
from lbctl.core.memo import Memo
from lbctl.errors import ProtocolError

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def request(*lines: bytes, start: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: h") -> Request:
    return parse_request(b"\r\n".join((start, host, *lines, b"", b"")), 100)


def response(
    *lines: bytes, start: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET", fields: int = 100
) -> Response:
    return parse_response(b"\r\n".join((start, *lines, b"", b"")), method, fields)


def refusal(*lines: bytes, start: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: h") -> str:
    with pytest.raises(ProtocolError) as caught:
        request(*lines, start=start, host=host)
    return f"{caught.value.status} {caught.value.reason}"


# Where a head ends.


def test_a_head_ends_after_its_empty_line() -> None:
    assert head_end(GET, 100) == len(GET)
    assert head_end(GET + b"\r\n\r\ntail", 100) == len(GET)
    for cut in range(len(GET)):
        assert head_end(GET[:cut], 100) == 0


@pytest.mark.parametrize(
    ("data", "limit", "problem"),
    [
        (b"GET /" + b"x" * 95, 100, "414 target_too_long"),
        (b"GET / HTTP/1.1\r\n" + b"x" * 84, 100, "431 head_too_large"),
        (GET, len(GET) - 1, "431 head_too_large"),
        (b"GET / HTTP/1.1\n", 100, "400 bare_lf"),
        (b"GET / HTTP/1.1\r\nHost: h\n", 100, "400 bare_lf"),
        (b"\n", 100, "400 bare_lf"),
    ],
)
def test_a_head_that_will_never_do_is_refused_before_it_is_whole(
    data: bytes, limit: int, problem: str
) -> None:
    with pytest.raises(ProtocolError) as caught:
        head_end(data, limit)
    assert f"{caught.value.status} {caught.value.reason}" == problem


def test_empty_lines_before_a_head_are_skipped() -> None:
    for count in range(4):
        assert without_empty_lines(b"\r\n" * count + GET) == GET
    assert without_empty_lines(b"\r\n\r\n") == b""
    assert without_empty_lines(b"\rGET") == b"\rGET"


# Requests.


def test_most_heads_are_plain() -> None:
    head = b"GET /a?b=%20 HTTP/1.1\r\nHost: h:80\r\nAccept: */*\r\nX-Y:\tz \x80\r\nz:\r\n\r\n"
    seen = parse_request(head, 100)
    assert seen.plain
    assert (seen.raw, seen.method, seen.target, seen.minor) == (head, b"GET", b"/a?b=%20", 1)
    assert (seen.host, seen.length, seen.keep_alive) == (b"h:80", NO_BODY, True)


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: x", b"Keep-Alive: x", b"Content-Length: 1", b"Transfer-Encoding: chunked",
        b"Expect: 100-continue", b"Upgrade: x", b"TE: trailers", b"Trailer: x",
        b"HTTP2-Settings: x", b"Proxy: x", b"Proxy-Authorization: x", b"Proxy-Connection: x",
        b"X-Forwarded-For: x", b"x_forwarded_for: x", b"X-FORWARDED-ANYTHING: x", b"Forwarded: x",
    ],
)  # fmt: skip
def test_whatever_decides_about_framing_connection_or_trust_takes_thought(line: bytes) -> None:
    assert not request(line).plain
    assert not request(line.swapcase()).plain


def test_names_that_only_look_alike_do_not() -> None:
    for line in (b"Content-Lengths: 1", b"X-Host: y", b"Tee: x", b"X: connection: close"):
        assert request(line).plain


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ([b"Content-Length: 0"], 0),
        ([b"Content-Length: 5"], 5),
        ([b"CONTENT-LENGTH:\t007 \t"], 7),
        ([b"Content-Length: 999999999999999999"], 10**18 - 1),
        ([b"Transfer-Encoding: chunked"], CHUNKED),
        ([b"transfer-encoding:cHuNkEd"], CHUNKED),
    ],
)
def test_the_length_of_a_request(lines: list[bytes], length: int) -> None:
    assert request(*lines).length == length


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b"+5", b"-5", b"5,5", b"5, 5", b"5 5", b"1_0", b"0x5", b"5.0", b"5e1", b"five",
        b"1" * 19, b"18446744073709551621", b"\xb2", b"\xd9\xa5", b'"5"', b"5;x",
    ],
)  # fmt: skip
def test_a_length_is_digits_and_nothing_else(value: bytes) -> None:
    assert refusal(b"Content-Length: " + value) == "400 content_length"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([b"Content-Length: 5", b"Content-Length: 5"], "400 content_length"),
        ([b"Content-Length: 5", b"content-length: 6"], "400 content_length"),
        ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], "400 two_lengths"),
        ([b"Transfer-Encoding: chunked", b"Content-Length: 0"], "400 two_lengths"),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], "400 transfer_encoding"),
        ([b"Transfer-Encoding: chunked, chunked"], "400 transfer_encoding"),
        ([b"Transfer-Encoding: chunked, gzip"], "400 transfer_encoding"),
        ([b"Transfer-Encoding: gzip"], "400 transfer_encoding"),
        ([b"Transfer-Encoding: gzip, chunked"], "501 transfer_encoding"),
        ([b"Transfer-Encoding: identity"], "400 transfer_encoding"),
        ([b"Transfer-Encoding:"], "400 transfer_encoding"),
        ([b"Transfer-Encoding: ,chunked"], "400 transfer_encoding"),
        ([b"Transfer-Encoding: chunked;q=1"], "400 transfer_encoding"),
        ([b"Transfer-Encoding: 'chunked'"], "400 transfer_encoding"),
        ([b"Transfer-Encoding: chun\x80ked"], "400 transfer_encoding"),
        ([b"Content_Length: 5"], "400 framing_alias"),
        ([b"Transfer_Encoding: chunked"], "400 framing_alias"),
        ([b"Content-Length: 5", b"content_length: 5"], "400 framing_alias"),
    ],
)
def test_a_choice_of_lengths_is_refused(lines: list[bytes], problem: str) -> None:
    assert refusal(*lines) == problem


def test_http_1_0_knows_no_chunks() -> None:
    coded = b"Transfer-Encoding: chunked"
    assert refusal(coded, start=b"POST / HTTP/1.0") == "400 transfer_encoding"


@pytest.mark.parametrize(
    "line",
    [
        b"X : y", b"X\t: y", b" X: y", b"\tfolded", b": y", b"X", b"(x): y", b"X y: z", b"X\x00: y",
        b"X\x80: y", b"X: a\x00", b"X: a\x7f", b"X: a\x0b", b"X: a\rb", b"X: a\nb", b"X: a\n",
        b"X: a\r", b"X: a\r\n b", b"\r", b"X\r\n: y",
    ],
)  # fmt: skip
def test_a_field_line_is_a_token_a_colon_and_a_value(line: bytes) -> None:
    assert refusal(line) == "400 malformed_head"


@pytest.mark.parametrize(
    "start",
    [
        b"", b"GET", b"GET /", b"GET / ", b" GET / HTTP/1.1", b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET / HTTP/1.1 ", b"GET / http/1.1",
        b"GET / HTTP/1.1.1",
        b"GET / HTTP/11", b"GET / HTTP/1.", b"GET / HTTP/1.+1", b"G@T / HTTP/1.1",
        b"GET /a b HTTP/1.1", b"GET /# HTTP/1.1", b"GET /\x80 HTTP/1.1", b"GET /\x00 HTTP/1.1",
        b"GET /\x7f HTTP/1.1", b"GET /\r HTTP/1.1", b"GET /\n HTTP/1.1", b"GET / XTTP/1.1",
    ],
)  # fmt: skip
def test_a_request_line_has_three_words(start: bytes) -> None:
    assert refusal(start=start) == "400 malformed_head"


@pytest.mark.parametrize(
    ("start", "host", "problem"),
    [
        (b"GET / HTTP/2.0", b"Host: h", "505 http_version"),
        (b"GET / HTTP/1.2", b"Host: h", "505 http_version"),
        (b"GET / HTTP/0.9", b"Host: h", "505 http_version"),
        (b"CONNECT h:80 HTTP/1.1", b"Host: h:80", "501 connect"),
        (b"CONNECT / HTTP/1.1", b"Host: h", "501 connect"),
        (b"GET * HTTP/1.1", b"Host: h", "400 target"),
        (b"GET x HTTP/1.1", b"Host: h", "400 target"),
        (b"GET h:80 HTTP/1.1", b"Host: h:80", "400 target"),
        (b"GET ftp://h/ HTTP/1.1", b"Host: h", "400 target"),
        (b"GET http://u@h/ HTTP/1.1", b"Host: h", "400 target"),
        (b"GET http:///x HTTP/1.1", b"Host: ", "400 target"),
        (b"GET http://:80/x HTTP/1.1", b"Host: :80", "400 host"),
        (b"GET http://a/ HTTP/1.1", b"Host: b", "400 host_disagrees"),
        (b"GET http://a/ HTTP/1.1", b"Host: a:80", "400 host_disagrees"),
        (b"GET http://a/ HTTP/1.1", b"Host:", "400 host_disagrees"),
        (b"GET / HTTP/1.1", b"Hos: h", "400 host"),
        (b"GET / HTTP/1.1", b"Host: h\r\nHost: h", "400 host"),
        (b"GET / HTTP/1.0", b"Host: h\r\nhost: i", "400 host"),
        (b"GET / HTTP/1.1", b"Host: u@h", "400 host"),
        (b"GET / HTTP/1.1", b"Host: h/", "400 host"),
        (b"GET / HTTP/1.1", b"Host: a,b/", "400 host"),
        (b"GET / HTTP/1.1", b"Host: a b", "400 host"),
        (b"GET / HTTP/1.1", b"Host: :80", "400 host"),
        (b"GET / HTTP/1.1", b"Host: h:", ""),
        (b"GET / HTTP/1.1", b"Host: h:123456", "400 host"),
        (b"GET / HTTP/1.1", b"Host: h:-1", "400 host"),
        (b"GET / HTTP/1.1", b"Host: [::1", "400 host"),
        (b"GET / HTTP/1.1", b"Host: <script>", "400 host"),
        (b"GET / HTTP/1.1", b"Host: \x80", "400 host"),
    ],
)
def test_who_is_asked_is_clear(start: bytes, host: bytes, problem: str) -> None:
    if problem:
        assert refusal(start=start, host=host) == problem
    else:
        assert request(start=start, host=host).host == b"h:"


@pytest.mark.parametrize(
    ("start", "host", "expected"),
    [
        (b"GET http://h HTTP/1.1", b"Host: h", (b"h", b"/")),
        (b"OPTIONS http://h HTTP/1.1", b"Host: h", (b"h", b"*")),
        (b"OPTIONS http://h/ HTTP/1.1", b"Host: h", (b"h", b"/")),
        (b"GET http://h?x=/ HTTP/1.1", b"Host: h", (b"h", b"/?x=/")),
        (b"GET HTTPS://H:8/a//b HTTP/1.1", b"Host: h:8", (b"H:8", b"/a//b")),
        (b"GET http://[::1]:80/ HTTP/1.1", b"Host: [::1]:80", (b"[::1]:80", b"/")),
        (b"GET http://h/ HTTP/1.0", b"X: y", (b"h", b"/")),
        (b"OPTIONS * HTTP/1.1", b"Host: h", (b"h", b"*")),
        (b"GET //x/y HTTP/1.1", b"Host:", (b"", b"//x/y")),
        (b"GET / HTTP/1.0", b"X: y", (b"", b"/")),
        (b"GET / HTTP/1.1", b"HOST:\t h \t", (b"h", b"/")),
    ],
)
def test_the_host_and_the_target_in_origin_form(
    start: bytes, host: bytes, expected: tuple[bytes, bytes]
) -> None:
    seen = request(start=start, host=host)
    assert (seen.host, seen.target) == expected


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"close", False),
        (b"1.1", b"x, CLOSE ,y", False),
        (b"1.1", b"closed", True),
        (b"1.0", b"", False),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"keep-alive, close", False),
    ],
)
def test_whether_a_client_stays(version: bytes, connection: bytes, *, keep_alive: bool) -> None:
    seen = request(b"Connection: " + connection, start=b"GET / HTTP/" + version)
    assert seen.keep_alive is keep_alive


def test_fields_are_counted() -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"x:y\r\n" * 9 + b"\r\n"
    assert parse_request(head, 10).plain
    with pytest.raises(ProtocolError) as caught:
        parse_request(head, 9)
    assert (caught.value.status, caught.value.reason) == (431, "too_many_fields")


# Responses.


def test_a_response_of_known_length_is_plain() -> None:
    seen = response(b"Server: x", b"content-length:\t45 ", b"Connection: keep-alive")
    assert seen.plain
    assert seen.raw == b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length:\t45 \r\n\r\n"
    assert (seen.status, seen.minor, seen.length, seen.keep_alive) == (200, 1, 45, True)


@pytest.mark.parametrize(
    ("start", "method", "lines", "length"),
    [
        (b"HTTP/1.1 200 OK", b"GET", [b"Transfer-Encoding: chunked"], CHUNKED),
        (b"HTTP/1.1 200 OK", b"GET", [], UNTIL_CLOSE),
        (b"HTTP/1.0 200 OK", b"GET", [b"Content-Length: 3"], 3),
        (b"HTTP/1.1 200 OK", b"HEAD", [b"Content-Length: 3"], NO_BODY),
        (b"HTTP/1.1 200 OK", b"HEAD", [b"Transfer-Encoding: chunked"], NO_BODY),
        (b"HTTP/1.1 200 OK", b"HEAD", [], NO_BODY),
        (b"HTTP/1.1 204 No Content", b"GET", [b"Content-Length: 3"], NO_BODY),
        (b"HTTP/1.1 204 No Content", b"GET", [], NO_BODY),
        (b"HTTP/1.1 304 Not Modified", b"GET", [b"Content-Length: 3"], NO_BODY),
        (b"HTTP/1.1 100 Continue", b"GET", [b"Content-Length: 3"], NO_BODY),
        (b"HTTP/1.1 200", b"GET", [b"Content-Length: 0"], 0),
        (b"HTTP/1.1 999 \x80", b"GET", [b"Content-Length: 1"], 1),
    ],
)
def test_the_length_of_a_response(
    start: bytes, method: bytes, lines: list[bytes], length: int
) -> None:
    assert response(*lines, start=start, method=method).length == length


@pytest.mark.parametrize(
    ("start", "lines", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK", [b"Content-Length: 3"], True),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 3", b"Connection: close"], False),
        (b"HTTP/1.1 200 OK", [b"Connection: keep-alive"], False),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 3"], False),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 3", b"Connection: keep-alive"], True),
        (b"HTTP/1.1 304 X", [], True),
    ],
)
def test_whether_a_backend_stays(start: bytes, lines: list[bytes], *, keep_alive: bool) -> None:
    assert response(*lines, start=start).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("start", "lines"),
    [
        (b"HTTP/1.1 20 OK", []),
        (b"HTTP/1.1 2000 OK", []),
        (b"HTTP/1.1 099 OK", []),
        (b"HTTP/1.1  200 OK", []),
        (b"HTTP/1.1 200OK", []),
        (b"HTTP/2 200 OK", []),
        (b"HTTP/1.2 200 OK", []),
        (b"http/1.1 200 OK", []),
        (b"HTTP/1.1 200 O\x00K", []),
        (b" HTTP/1.1 200 OK", []),
        (b"ICY 200 OK", []),
        (b"", []),
        (b"HTTP/1.0 200 OK", [b"Transfer-Encoding: chunked"]),
        (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: gzip, chunked"]),
        (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: chunked"] * 2),
        (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: chunked", b"Content-Length: 3"]),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 3", b"Content-Length: 3"]),
        (b"HTTP/1.1 200 OK", [b"Content-Length: +3"]),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 3, 3"]),
        (b"HTTP/1.1 200 OK", [b"Content_Length: 3"]),
        (b"HTTP/1.1 204 OK", [b"Content-Length: x"]),
        (b"HTTP/1.1 200 OK", [b"X : y"]),
        (b"HTTP/1.1 200 OK", [b"X: a", b" b"]),
        (b"HTTP/1.1 200 OK", [b"x: y"] * 101),
    ],
)
def test_a_response_that_leaves_a_choice_is_a_502(start: bytes, lines: list[bytes]) -> None:
    with pytest.raises(ProtocolError) as caught:
        response(*lines, start=start)
    assert caught.value.status == 502


# A second reader.


def h11_reads(head: bytes) -> h11.Request | None:
    """What h11 reads; None if it refuses."""
    reader = h11.Connection(h11.SERVER)
    try:
        reader.receive_data(head)
        event = reader.next_event()
    except h11.RemoteProtocolError:
        return None
    assert isinstance(event, h11.Request)
    return event


_LINES = st.sampled_from(
    [
        b"Host: h", b"host:h:80", b"Host: h\r\nHost: h", b"X: y", b"X:", b"X : y", b" X: y", b": y",
        b"X: \xff", b"X: a\x00", b"X: a\rb", b"X: a\nb", b"Content-Length: 3",
        b"Content-Length: +3",
        b"Content-Length: 3, 3", b"Content-Length: 03", b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked", b"Transfer-Encoding: x, chunked", b"Transfer-Encoding:",
        b"Connection: close", b"Connection: keep-alive, x", b"Expect: 100-continue", b"X-Y_z: 1",
        b"Upgrade: h2c", b"folded\r\n y", b"X\t: y", b"\xc3\xa9: y", b"Proxy: x",
    ]
)  # fmt: skip
_STARTS = st.sampled_from(
    [
        b"GET / HTTP/1.1", b"POST /x?y HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/2.0",
        b"OPTIONS * HTTP/1.1", b"GET http://h/ HTTP/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 ",
        b"G T / HTTP/1.1", b"GET /\xff HTTP/1.1", b"get / HTTP/1.1", b"GET / http/1.1",
    ]
)  # fmt: skip


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head that is nearly right: usual parts, and sometimes a few other bytes somewhere."""
    lines = [draw(_STARTS), *draw(st.lists(_LINES, max_size=5))]
    head = b"\r\n".join((*lines, b"", b""))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(head) - 5))
        replaced = draw(st.integers(0, 2))
        head = head[:at] + draw(st.binary(max_size=2)) + head[at + replaced :]
    return head


@given(heads())
def test_what_passes_means_the_same_to_a_strict_reader(head: bytes) -> None:
    try:
        end = head_end(head, 10_000)
        seen = parse_request(head[:end], 100) if end else None
    except ProtocolError:
        return  # being stricter is fine
    if seen is None:
        return
    other = h11_reads(head[:end])
    assert other is not None, "lenient where h11 is strict"
    assert (other.method, other.http_version) == (seen.method, b"1.%d" % seen.minor)
    assert other.target == seen.target or other.target.startswith(b"http")
    lengths = [value for name, value in other.headers if name == b"content-length"]
    chunked = [value for name, value in other.headers if name == b"transfer-encoding"]
    if chunked:
        assert (seen.length, lengths) == (CHUNKED, [])
    else:
        assert seen.length == (int(lengths[0]) if lengths else NO_BODY)


@given(heads())
def test_nothing_but_protocol_errors_comes_out_of_heads(head: bytes) -> None:
    with suppress(ProtocolError):
        parse_request(head, 100)
    with suppress(ProtocolError):
        parse_response(b"HTTP/1.1 200 OK\r\n" + head, b"GET", 100)


@given(st.binary(max_size=200))
def test_nor_out_of_any_bytes(data: bytes) -> None:
    with suppress(ProtocolError):
        head_end(data, 100)
    with suppress(ProtocolError):
        parse_request(data + b"\r\n\r\n", 10)
    with suppress(ProtocolError):
        parse_response(data + b"\r\n\r\n", b"GET", 10)


# What was read before.

_BLOCKS = st.lists(
    st.sampled_from(
        [b"Host: h", b"Host: ", b"Host: a b", b"Accept: x", b"Connection: close", b"TE: x", b"bad",
         b"Content-Length: 3", b"Host:\th", b"X-Forwarded-For: y"]
    ),
    max_size=3,
)  # fmt: skip
_LINES = st.sampled_from(
    [b"GET /1 HTTP/1.1", b"POST /2 HTTP/1.1", b"GET /3 HTTP/1.0", b"CONNECT h:1 HTTP/1.1",
     b"OPTIONS * HTTP/1.1", b"GET http://h/4 HTTP/1.1", b"GET * HTTP/1.1", b"GET  /5 HTTP/1.1"]
)  # fmt: skip


def _reading(raw: bytes, hosts: Memo[bytes] | None) -> object:
    try:
        request = parse_request(raw, 100, hosts)
    except ProtocolError as error:
        return error.status, error.reason
    names = ("raw", "method", "target", "minor", "host", "length", "keep_alive", "plain", "fields")
    return [getattr(request, name) for name in (*names, "repeatable", "simple", "upgrade")]


@given(st.lists(st.tuples(_LINES, _BLOCKS), min_size=2, max_size=8))
def test_a_block_of_fields_that_was_met_before_is_read_the_same(
    heads: list[tuple[bytes, list[bytes]]],
) -> None:
    hosts: Memo[bytes] = Memo()
    for line, block in heads + [(line, block) for line, _ in heads for _, block in heads]:
        raw = b"\r\n".join([line, *block, b"", b""])
        assert _reading(raw, hosts) == _reading(raw, None)


@pytest.mark.parametrize(
    ("said", "meant"), [(b"WebSocket,", {b"websocket"}), (b" ,\t,", set()), (b"", set())]
)
def test_an_empty_name_is_no_protocol_to_change_to(said: bytes, meant: set[bytes]) -> None:
    lines = (b"Connection: upgrade", b"Upgrade: " + said)
    assert request(*lines, start=b"GET / HTTP/1.1").upgrade == meant
    answer = response(*lines, start=b"HTTP/1.1 101 Switching")
    assert upgrade_protocols(answer.fields) == meant
