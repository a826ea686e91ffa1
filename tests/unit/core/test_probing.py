"""What a health check asks and expects: how settings are read, and which answers pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.probing import (
    BODY_LIMIT_BYTES,
    Expectation,
    expectation,
    read_body,
    read_headers,
    read_path,
    read_statuses,
)


@pytest.mark.parametrize(
    ("text", "passing", "failing"),
    [
        ("200-299", (200, 204, 299), (199, 300, 503)),
        ("200,204", (200, 204), (201, 203, 500)),
        ("200, 301-302 ,401", (200, 301, 302, 401), (300, 303, 400)),
    ],
)
def test_statuses(text: str, passing: tuple[int, ...], failing: tuple[int, ...]) -> None:
    expected = expectation(text, "", "")
    assert [expected.objection(status, b"") for status in passing] == [""] * len(passing)
    assert all(expected.objection(status, b"") for status in failing)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2xx",
        "200-",
        "-200",
        "299-200",
        "99",
        "100",
        "600",
        "200;204",
        "\uff12\uff10\uff10",
        "200\n",
    ],
)
def test_what_is_no_status(text: str) -> None:
    with pytest.raises(ValueError, match=r"200|ends before"):
        read_statuses(text)


@pytest.mark.parametrize("text", ["", "healthz", "/a b", "/a\r\nX: y", "/é", "/a#b", "/" * 1025])
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        read_path(text)


def test_headers() -> None:
    assert read_headers("") == {}
    assert read_headers("Host: site:80; X-Check:a b ") == {"Host": "site:80", "X-Check": "a b"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Host", "Name: value"),
        ("Host:", "Name: value"),
        (": x", "Name: value"),
        ("A: b;", "Name: value"),
        ("A b: c", "Name: value"),
        ("A : \x00", "Name: value"),
        ("A: b\r\nC: d", "Name: value"),
        ("A: b\nC: d", "Name: value"),
        ("A: é", "Name: value"),
        ("content-length: 5", "cannot be set"),
        ("Transfer-Encoding: chunked", "cannot be set"),
        ("A: 1; a: 2", "twice"),
    ],
)
def test_headers_that_cannot_be_meant(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_headers(text)


@given(st.text())
def test_no_header_ever_holds_a_line_end(text: str) -> None:
    try:
        headers = read_headers(text)
    except ValueError:
        return
    assert all(char.isprintable() for pair in headers.items() for char in "".join(pair))


def test_a_body_must_fit_into_what_is_read() -> None:
    assert read_body("é") == b"\xc3\xa9"
    assert len(read_body("x" * BODY_LIMIT_BYTES)) == BODY_LIMIT_BYTES
    with pytest.raises(ValueError, match="no further"):
        read_body("x" * (BODY_LIMIT_BYTES + 1))
    with pytest.raises(ValueError, match="one line"):
        read_body("ok\r\n")


def test_the_words_say_what_was_expected_and_what_came() -> None:
    assert Expectation().objection(503, b"") == "answered 503, not 200-299"
    wanted = expectation("200 ,204", "all well", "")
    assert wanted.objection(404, b"") == "answered 404, not 200,204"
    assert wanted.objection(200, b"all") == (
        'answered 200 without "all well" in its first 65536 bytes'
    )
    assert wanted.objection(200, b"... all well ...") == ""
