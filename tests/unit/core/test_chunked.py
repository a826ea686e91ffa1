"""Bodies in chunks: every rule of the grammar, in one piece, in any pieces, and with a tail."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lbctl.core.chunked import ChunkedBody
from lbctl.errors import ProtocolError


class Fed:
    """What a ChunkedBody makes of some pieces."""

    def __init__(self, pieces: list[bytes], *, limit: int = 100, decode: bool = False) -> None:
        body = ChunkedBody(400, limit, decode=decode)
        self.passed = b""
        self.problem = ""
        unfed = list(pieces)
        try:
            while unfed and not body.done:
                self.passed += body.feed(unfed.pop(0))
        except ProtocolError as error:
            self.problem = f"{error.status} {error.reason}"
        self.done = body.done
        self.rest = body.rest + b"".join(unfed)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A chunked body, and its data."""
    wire, data = b"", b""
    for chunk in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5)):
        size = draw(st.sampled_from([b"%x", b"%X", b"000%x"])) % len(chunk)
        extension = draw(st.sampled_from([b"", b";a=b", b' ;a="b;c"', b"\t;c", b';a="\\"\xff"']))
        wire += size + extension + b"\r\n" + chunk + b"\r\n"
        data += chunk
    trailers = draw(st.lists(st.sampled_from([b"X: y\r\n", b"Digest:z\r\n"]), max_size=3))
    return wire + draw(st.sampled_from([b"0", b"000", b"0;x"])) + b"\r\n" + b"".join(
        trailers
    ) + b"\r\n", data


@given(bodies(), st.binary(max_size=30), st.lists(st.integers(0, 400)))
def test_chunks_in_any_pieces_with_any_tail(
    body: tuple[bytes, bytes], tail: bytes, cuts: list[int]
) -> None:
    wire, data = body
    whole, cut = Fed([wire + tail]), Fed(pieces(wire + tail, cuts))
    single = Fed([bytes([byte]) for byte in wire + tail])
    for fed in (whole, cut, single):
        assert (fed.passed, fed.rest, fed.done, fed.problem) == (wire, tail, True, "")
    for fed in (Fed([wire + tail], decode=True), Fed(pieces(wire + tail, cuts), decode=True)):
        assert (fed.passed, fed.rest, fed.done) == (data, tail, True)


_ALMOST = st.lists(
    st.sampled_from(
        [b"0", b"1", b"5", b"a", b"G", b"\r", b"\n", b"\r\n", b";", b"x", b" ", b"-", b"X: y",
         b"0\r\n\r\n", b"5\r\nhello\r\n", b"Host: h\r\n", b"\x00", b":", b"0" * 15]
    ),
    max_size=12,
).map(b"".join)  # fmt: skip


@given(st.one_of(_ALMOST, st.binary(max_size=60)), st.lists(st.integers(0, 200)))
@example(b"0\r\n" + b"X: 1234\r\n" * 2 + b"\r\n", [22])
@example(b"0\r\nX: 123456789\r\n\r\n", [19])
def test_what_comes_of_bytes_does_not_depend_on_how_they_are_cut(
    data: bytes, cuts: list[int]
) -> None:
    for limit in (8, 18, 19, 20, 100):
        whole, cut = Fed([data], limit=limit), Fed(pieces(data, cuts), limit=limit)
        single = Fed([bytes([byte]) for byte in data], limit=limit)
        for fed in (cut, single):
            assert (fed.done, bool(fed.problem)) == (whole.done, bool(whole.problem))
            if not fed.problem:
                assert (fed.passed, fed.rest) == (whole.passed, whole.rest)


@given(_ALMOST)
def test_nothing_is_passed_on_that_is_not_whole_and_checked(data: bytes) -> None:
    """Of an unfinished line, not one byte: the next hop could read it in its own way."""
    fed = Fed([bytes([byte]) for byte in data])
    again = Fed([fed.passed])
    assert (again.problem, again.passed) == ("", fed.passed)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n", b"\n", b"g\r\n", b"-1\r\n", b"+1\r\n", b"0x1\r\n", b"1_0\r\n", b" 1\r\n",
        b"1 \r\n",
        b"1\n", b"1\r\r\n", b"1;a\n", b"1;a\rb\r\n", b"1;\x00\r\n", b"1;\x7f\r\n", b";a\r\n",
        b"1" * 16 + b"\r\n", b"1\r\na\n", b"1\r\naX", b"1\r\na\rX", b"1\r\na\r\r\n", b"1\r\nab\r\n",
        b"0\n", b"0\r\n\n", b"0\r\nX\r\n", b"0\r\nX : y\r\n", b"0\r\n: y\r\n", b"0\r\nX: y\n",
        b"0\r\nX: y\r\n z\r\n", b"0\r\nX: \x00\r\n", b"0\r\nContent-Length: 1\r\n",
        b"0\r\ntransfer_encoding: x\r\n", b"0\r\nHost: h\r\n", b"0\r\nTrailer: x\r\n",
        b"0\r\nX-Forwarded-For: x\r\n", b"0\r\nx_forwarded_proto: x\r\n", b"0\r\nForwarded: x\r\n",
        b"0\r\nAuthorization: x\r\n", b"0\r\nCookie: x\r\n", b"0\r\nConnection : x\r\n",
    ],
)  # fmt: skip
def test_broken_chunks(data: bytes) -> None:
    assert Fed([data]).problem in ("400 chunk", "400 trailer")
    assert Fed([bytes([byte]) for byte in data]).problem in ("400 chunk", "400 trailer")


@pytest.mark.parametrize(
    "data",
    [b"1;" + b"x" * 100, b"1;" + b"x" * 100 + b"\r\n", b"0\r\nX: " + b"y" * 100,
     b"0\r\n" + b"X: 45678\r\n" * 10 + b"\r\n"],
)  # fmt: skip
def test_lines_and_trailers_have_a_limit(data: bytes) -> None:
    assert Fed([data], limit=100).problem
    assert not Fed([data[:50]], limit=100).problem


def test_data_passes_as_the_same_object() -> None:
    body = ChunkedBody(400, 100)
    body.feed(b"ff\r\n")
    data = b"x" * 200
    assert body.feed(data) is data


@given(st.binary(max_size=200))
def test_nothing_but_protocol_errors_comes_out_of_any_bytes(data: bytes) -> None:
    with suppress(ProtocolError):
        ChunkedBody(400, 50).feed(data)
