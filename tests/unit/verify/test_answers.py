"""Answers whole, byte by byte, cut short, and wrong."""

from __future__ import annotations

import pytest

from lbctl.verify.answers import (
    BODY_LIMIT_BYTES,
    HEAD_LIMIT_BYTES,
    Answer,
    AnswerError,
    AnswerReader,
    Kind,
    check_list,
    is_list,
    list_of,
)

LIST = b"127.0.0.9\n127.0.0.10\n"
WHOLE = b"HTTP/1.1 200 OK\r\nX-Served-By: 127.0.0.9\r\nContent-Length: 21\r\n\r\n" + LIST
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"a\r\n127.0.0.9\n\r\nB;x=1\r\n127.0.0.10\n\r\n0\r\n\r\n"
)


def read(data: bytes, method: bytes = b"GET") -> Answer | None:
    return AnswerReader(method).feed(data)


def refused(data: bytes) -> AnswerError:
    with pytest.raises(AnswerError) as caught:
        read(data)
    return caught.value


@pytest.mark.parametrize("data", [WHOLE, CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE])
def test_an_answer_is_the_same_whole_and_byte_by_byte(data: bytes) -> None:
    reader = AnswerReader(b"GET")
    for at in range(len(data) - 1):
        assert reader.feed(data[at : at + 1]) is None, at
    last = reader.feed(data[-1:])
    assert last == read(data)
    assert last is not None
    assert (last.status, last.body, last.closes) == (200, LIST, False)


def test_the_backend_is_known_by_its_field() -> None:
    answer = read(WHOLE)
    assert answer is not None
    assert answer.served_by == "127.0.0.9"
    own = read(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    assert own is not None
    assert own.served_by == ""


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 21\r\n\r\n"),
    ],
)
def test_some_answers_have_no_body(method: bytes, head: bytes) -> None:
    answer = read(head, method)
    assert answer is not None
    assert answer.body == b""


@pytest.mark.parametrize("value", [b"close", b"Keep-Alive, Close", b" close "])
def test_an_answer_may_be_the_last(value: bytes) -> None:
    answer = read(b"HTTP/1.1 200 OK\r\nConnection: %s\r\nContent-Length: 0\r\n\r\n" % value)
    assert answer is not None
    assert answer.closes


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (b"", Kind.CLOSED),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Kind.SHORT),
        (WHOLE[:-1], Kind.SHORT),
        (CHUNKED[:-2], Kind.SHORT),
    ],
)
def test_an_answer_that_is_cut_short(sent: bytes, kind: Kind) -> None:
    reader = AnswerReader(b"GET")
    reader.feed(sent)
    with pytest.raises(AnswerError) as caught:
        reader.end()
    assert caught.value.kind is kind


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    reader = AnswerReader(b"GET")
    assert reader.feed(b"HTTP/1.0 200 OK\r\n\r\n127.0.0.1\n") is None
    assert reader.end() == Answer(200, {}, b"127.0.0.1\n", closes=True)


@pytest.mark.parametrize(
    "data",
    [
        b"HTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : space\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n",
        WHOLE + b"x",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_LIMIT_BYTES,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (BODY_LIMIT_BYTES + 1),
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    assert refused(data).kind is Kind.MALFORMED


def answer(status: int = 200, body: bytes = LIST, length: int | None = None) -> Answer:
    fields = {} if length is None else {b"content-length": b"%d" % length}
    return Answer(status, fields, body, closes=False)


@pytest.mark.parametrize(
    ("given", "method", "expected", "kind"),
    [
        (answer(500), b"GET", None, Kind.STATUS),
        (answer(404), b"HEAD", None, Kind.STATUS),
        (answer(body=b"127.0.0.9\n"), b"GET", LIST, Kind.CONTENT),
        (answer(body=b"<html>"), b"GET", None, Kind.CONTENT),
        (answer(body=b""), b"GET", None, Kind.CONTENT),
        (answer(body=b""), b"HEAD", None, Kind.CONTENT),
        (answer(body=b"", length=20), b"HEAD", LIST, Kind.CONTENT),
    ],
)
def test_an_answer_that_is_not_the_list(
    given: Answer, method: bytes, expected: bytes | None, kind: Kind
) -> None:
    with pytest.raises(AnswerError) as caught:
        check_list(given, method, expected)
    assert caught.value.kind is kind


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"127.0.0.9\n", " (without 127.0.0.10)"),
        (b"127.0.0.9\n127.0.0.10\n127.0.0.11\n", " (with 127.0.0.11)"),
        (b"127.0.0.1\n127.0.0.9\n", " (without 127.0.0.10, with 127.0.0.1)"),
        (b"".join(b"127.1.0.%d\n" % n for n in range(9)),
         " (without 127.0.0.10, 127.0.0.9, with 127.1.0.0, 127.1.0.1, 127.1.0.2)"),
        (b"no list", ""),
        (b"127.0.0.10\n127.0.0.9\n", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_list_is_told(body: bytes, said: str) -> None:
    with pytest.raises(AnswerError) as caught:
        check_list(answer(body=body), b"GET", LIST)
    assert str(caught.value).partition("in rotation")[2] == said


def test_the_list_is_taken() -> None:
    check_list(answer(), b"GET", LIST)
    check_list(answer(), b"GET", None)
    check_list(answer(302), b"GET", None)
    check_list(answer(body=b"", length=21), b"HEAD", LIST)


@pytest.mark.parametrize(
    "body",
    [b"", b"127.0.0.10\n127.0.0.9\n", b"127.0.0.9", b"127.0.0.9\r\n", b"127.0.0.09\n", b"\xff\n"],
)
def test_what_is_no_list(body: bytes) -> None:
    assert not is_list(body)


def test_a_list_is_in_numeric_order() -> None:
    assert list_of(["127.0.0.10", "127.0.0.9"]) == LIST
    assert is_list(LIST)
