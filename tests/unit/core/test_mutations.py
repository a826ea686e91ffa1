"""Well-formed messages with a few things changed: what must hold for any bytes holds for those
that are nearly right (tests/fuzz/checks.py says what).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lbctl.core import forwarding
from lbctl.core.http1 import CHUNKED, NO_BODY, UNTIL_CLOSE
from lbctl.errors import ProtocolError
from tests.fuzz.checks import check_chunks, check_head_end, check_request, check_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Well-formed messages.

_METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"x-own!"])
_TARGETS = st.sampled_from([b"/", b"/a/b?c=%20&d", b"//x", b"http://site:80/x", b"HTTPS://site:80"])
_FIELDS = st.lists(
    st.sampled_from(
        [b"Accept: */*", b"X-Y:", b"x_y:\tz \t", b"Cookie: a=b; c=\xff", b"Connection: x-y, close",
         b"Connection: keep-alive", b"Keep-Alive: 5", b"Via: 1.0 other", b"TE: trailers",
         b"Upgrade: websocket", b"Connection: upgrade", b"X-Forwarded-For: 198.51.100.1",
         b"Forwarded: for=x", b"X-Request-Id: theirs", b"Max-Forwards: 3", b"Expect: 100-continue"]
    ),
    max_size=4,
)  # fmt: skip
_STATUS_LINES = st.sampled_from(
    [b"200 OK", b"200 ", b"200", b"100 Continue", b"101 Switching", b"204 No Content",
     b"304 Not Modified", b"404 Not F\xf6und", b"999 ?"]
)  # fmt: skip
_CHUNKS = st.lists(
    st.tuples(
        st.sampled_from([b"%x", b"%X", b"0%x"]),
        st.sampled_from([b"", b";a", b";a=b", b' ;a="b;\\"\xff"', b"\t;\ta\t=\tb"]),
        st.binary(min_size=1, max_size=20),
    ),
    max_size=3,
)
_TRAILERS = st.lists(st.sampled_from([b"Digest: x\r\n", b"X:\r\n"]), max_size=2)
_SIZES = st.tuples(st.just(1), st.integers(2, 60))


@st.composite
def chunked(draw: st.DrawFn) -> bytes:
    """A chunked body."""
    wire = b"".join(
        size % len(data) + extension + b"\r\n" + data + b"\r\n"
        for size, extension, data in draw(_CHUNKS)
    )
    last = draw(st.sampled_from([b"0", b"000", b"0;a"]))
    return wire + last + b"\r\n" + b"".join(draw(_TRAILERS)) + b"\r\n"


@st.composite
def framed(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Field lines that announce a body, and that body; in HTTP/1.1."""
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    if kind == "none":
        return [], b""
    if kind == "length":
        body = draw(st.binary(max_size=20))
        return [
            draw(st.sampled_from([b"Content-Length: %d", b"content-length:\t0%d "])) % len(body)
        ], body
    return [
        draw(st.sampled_from([b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED"]))
    ], draw(chunked())


def _message(start: bytes, lines: list[bytes], body: bytes) -> bytes:
    return b"\r\n".join((start, *lines, b"", b"")) + body


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    framing, body = draw(framed())
    start = b"%b %b HTTP/1.1" % (draw(_METHODS), draw(_TARGETS))
    lines = draw(st.permutations([b"Host: site:80", *framing, *draw(_FIELDS)]))
    follower = draw(st.sampled_from([b"", b"\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n"]))
    return draw(st.sampled_from([b"", b"\r\n"])) + _message(start, lines, body) + follower


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    framing, body = draw(framed())
    start = b"HTTP/1.1 " + draw(_STATUS_LINES)
    return _message(start, draw(st.permutations([*framing, *draw(_FIELDS)])), body)


# What may happen to them.

_BYTES = st.one_of(
    st.sampled_from(list(b'\r\n\t \0:;,="\\+-_#0159aAfFxX\x7f\x80\xff')), st.integers(0, 255)
)
_INSERTED = st.sampled_from(
    [b"Content-Length: 1", b"Content-Length: 1, 1", b"Content_Length: 1", b"Content-Length: +1",
     b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:",
     b"Transfer_Encoding: chunked", b"Transfer-Encoding : chunked", b" folded", b"Host: other",
     b"Host", b": x", b"Trailer: x", b"Connection: content-length, transfer-encoding, host",
     b"5", b"0", b"", b"GET / HTTP/1.1", b"HTTP/1.1 200 OK"]
)  # fmt: skip
# Lengths and sizes, which matter more than any other number.
_NUMBER = re.compile(rb"(?i)(?<=length:)[\t ]*([0-9]+)|^([0-9a-f]+)(?=[\r;\t ])", re.MULTILINE)
_WRITTEN = st.sampled_from(
    [b"+%b", b"-%b", b"0x%b", b"0_%b", b"%b_", b"%b.0", b"%b ", b" %b", b"%b\t", b"\x0b%b",
     b"\xa0%b", b'"%b"', b"%b\n", b"%b\r", b"%b\0", b"%b,", b"1%b", b"%b0", b"%.0b",
     b"0" * 14 + b"%b", b"0" * 17 + b"%b", b"%b" + b"0" * 17, b"1844674407370955161%b",
     b"1" + b"0" * 15 + b"%b"]
)  # fmt: skip


def _replace_byte(data: bytes, draw: st.DrawFn) -> bytes:
    at = draw(st.integers(0, len(data)))
    removed = draw(st.integers(0, 2))
    return data[:at] + bytes(draw(st.lists(_BYTES, max_size=2))) + data[at + removed :]


def _change_line(data: bytes, draw: st.DrawFn) -> bytes:
    lines = data.split(b"\r\n")
    at = draw(st.integers(0, len(lines) - 1))
    match draw(st.sampled_from(["repeat", "drop", "move", "insert", "case", "colon", "join"])):
        case "repeat":
            lines.insert(at, lines[at])
        case "drop":
            del lines[at]
        case "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
        case "insert":
            lines.insert(at, draw(_INSERTED))
        case "case":
            lines[at] = lines[at].swapcase()
        case "colon":
            space = draw(st.sampled_from([b" ", b"\t", b"\x0b", b"\0", b"\r\n ", b"\r", b"\n"]))
            lines[at] = lines[at].replace(b":", space + b":", 1)
        case _:
            ends = [b"\n", b"\r", b"\r\r\n", b"\n\n", b"\r\n\r\n", b"\r\n ", b""]
            lines[at : at + 2] = [draw(st.sampled_from(ends)).join(lines[at : at + 2])]
    return b"\r\n".join(lines)


def _change_number(data: bytes, draw: st.DrawFn) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    chosen = draw(st.sampled_from(found))
    group = 1 if chosen.group(1) else 2
    number = draw(_WRITTEN) % chosen.group(group)
    return data[: chosen.start(group)] + number + data[chosen.end(group) :]


def _swell(data: bytes, draw: st.DrawFn) -> bytes:
    at = draw(st.integers(0, len(data)))
    return (
        data[:at] + bytes([draw(_BYTES)]) * draw(st.sampled_from([20, 255, 256, 2100])) + data[at:]
    )


def _truncate(data: bytes, draw: st.DrawFn) -> bytes:
    return data[: draw(st.integers(0, len(data)))]


_CHANGES: list[Callable[[bytes, st.DrawFn], bytes]] = [
    _replace_byte, _change_line, _change_line, _change_number, _change_number, _swell, _truncate,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, wellformed: st.SearchStrategy[bytes]) -> bytes:
    data = draw(wellformed)
    for change in draw(st.lists(st.sampled_from(_CHANGES), min_size=1, max_size=2)):
        data = change(data, draw)
    return data


_THOROUGH = settings(max_examples=300, deadline=None)


# The grammar is one: what it makes is taken.


@_THOROUGH
@given(requests(), _SIZES)
def test_every_well_formed_request_is_taken(data: bytes, sizes: tuple[int, int]) -> None:
    seen = check_request(data, sizes)
    assert seen is not None
    assert seen.host == b"site:80"


@_THOROUGH
@given(responses(), st.sampled_from([b"GET", b"HEAD"]), _SIZES)
def test_every_well_formed_response_is_taken(
    data: bytes, method: bytes, sizes: tuple[int, int]
) -> None:
    seen = check_response(data, method, sizes)
    assert seen is not None
    assert seen.length in (NO_BODY, CHUNKED, UNTIL_CLOSE) or b"%d" % seen.length in data


@_THOROUGH
@given(chunked(), st.sampled_from([b"", b"0", b"\r\n", b"GET /"]), _SIZES)
def test_every_chunked_body_is_taken(data: bytes, tail: bytes, sizes: tuple[int, int]) -> None:
    assert check_chunks(data + tail, sizes, limit_bytes=100)


# And nearly right is either wrong or means one thing.


@_THOROUGH
@given(mutated(requests()), _SIZES)
@example(
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1 ;a\r\nx\r\n0\r\n\r\n",
    (1, 2),
)
def test_a_mutated_request_is_refused_or_means_one_thing(
    data: bytes, sizes: tuple[int, int]
) -> None:
    check_request(data, sizes)


@_THOROUGH
@given(mutated(responses()), st.sampled_from([b"GET", b"HEAD"]), _SIZES)
def test_a_mutated_response_is_refused_or_means_one_thing(
    data: bytes, method: bytes, sizes: tuple[int, int]
) -> None:
    check_response(data, method, sizes)


@_THOROUGH
@given(mutated(chunked()), _SIZES, st.integers(8, 100))
def test_a_mutated_chunked_body_is_refused_or_means_one_thing(
    data: bytes, sizes: tuple[int, int], limit_bytes: int
) -> None:
    check_chunks(data, sizes, limit_bytes)


@_THOROUGH
@given(mutated(requests()), st.integers(8, 300))
def test_a_mutated_head_ends_where_its_first_empty_line_is(data: bytes, limit_bytes: int) -> None:
    check_head_end(data, limit_bytes)


# One thing at a time, at every place.

POST = b"POST / HTTP/1.1\r\nHost: h\r\n"
CHUNKED_POST = POST + b"Transfer-Encoding: chunked\r\n\r\n"
_TELLING = [bytes([byte]) for byte in b"\r\n\t \0:;,+-_0xa\x0b\x7f\xa0"]


def _changed_once(data: bytes) -> Iterator[bytes]:
    """Every byte left out, sent twice, or with another one before it or in its place."""
    for at in range(len(data)):
        before, after = data[:at], data[at + 1 :]
        yield before + after
        yield before + data[at : at + 1] * 2 + after
        for other in _TELLING:
            yield before + other + after
            yield before + other + data[at:]


@pytest.mark.parametrize(
    "data",
    [
        POST + b"Content-Length: 10\r\n\r\n0123456789",
        CHUNKED_POST + b"2;a=b\r\nhi\r\n0\r\nX: y\r\n\r\n",
    ],
)
def test_a_request_with_any_byte_wrong_is_refused_or_means_one_thing(data: bytes) -> None:
    for changed in _changed_once(data):
        check_request(changed, (1,))


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ],
)
def test_so_is_a_response(data: bytes) -> None:
    for changed in _changed_once(data):
        check_response(changed, b"GET", (1,))


# All of which would notice a careless reader.


@pytest.mark.parametrize(
    ("name", "lax", "data"),
    [
        ("http1._LENGTH", rb"[+0-9]+", POST + b"Content-Length: +1\r\n\r\nx"),
        ("http1._LENGTH", rb"[_0-9]+", POST + b"Content-Length: 1_0\r\n\r\nx"),
        ("chunked._CHUNK_LINE", rb"([+0-9]+)\r\n", CHUNKED_POST + b"+1\r\nx\r\n0\r\n\r\n"),
        ("chunked._CHUNK_LINE", rb"([0-9]+)[^;]*\r\n", CHUNKED_POST + b"1 x\r\nx\r\n0\r\n\r\n"),
        ("http1._FIELD_BLOCK", rb"(?s).*", POST + b"X : y\r\n\r\n"),
        ("chunked._FIELD_LINE", rb".*\r\n", CHUNKED_POST + b"0\r\nX : y\r\n\r\n"),
    ],
)
def test_a_careless_reader_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, lax: bytes, data: bytes
) -> None:
    check_request(data, (1, 2))
    monkeypatch.setattr(f"lbctl.core.{name}", re.compile(lax).fullmatch)
    with pytest.raises(AssertionError):
        check_request(data, (1, 2))


def test_so_is_a_careless_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: x\r\nContent-Length: 1\r\n\r\nx"
    check_request(data, (1,))
    monkeypatch.setattr(forwarding, "_NOT_FOR_BACKENDS", frozenset())
    with pytest.raises((AssertionError, ProtocolError)):
        check_request(data, (1,))
