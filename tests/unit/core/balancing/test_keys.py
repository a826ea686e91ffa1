"""What of a request is hashed."""

from __future__ import annotations

import pytest

from lbctl.core.balancing.keys import by_client_ip, by_cookie, by_header, key_from

FIELDS = [
    (b"host", b"h"),
    (b"x-user", b"ann"),
    (b"cookie", b"a=1; session=xyz"),
    (b"accept", b"a"),
    (b"accept", b"b"),
]


def test_by_client_ip() -> None:
    assert by_client_ip("192.0.2.7", FIELDS) == b"192.0.2.7"
    assert by_client_ip("2001:db8::1", []) == b"2001:db8::1"


def test_by_header() -> None:
    assert by_header("X-User")("192.0.2.7", FIELDS) == b"ann"
    assert by_header("accept")("192.0.2.7", FIELDS) == b"a, b"
    assert by_header("user")("192.0.2.7", FIELDS) == b""


def test_by_cookie() -> None:
    assert by_cookie("session")("192.0.2.7", FIELDS) == b"xyz"
    assert by_cookie("b")("192.0.2.7", FIELDS) == b""
    with pytest.raises(ValueError, match="name of a cookie"):
        by_cookie("a b")


def test_as_it_is_written_in_the_settings() -> None:
    assert key_from("ip")("192.0.2.7", FIELDS) == b"192.0.2.7"
    assert key_from("header:X-User")("192.0.2.7", FIELDS) == b"ann"
    assert key_from("cookie:session")("192.0.2.7", FIELDS) == b"xyz"


@pytest.mark.parametrize(
    "text", ["", "IP", "ip:", "ip:x", "header", "header:", "header:a b", "header:a:b", "cookie"]
)
def test_no_such_key(text: str) -> None:
    with pytest.raises(ValueError, match="is none of ip, header:NAME, cookie:NAME"):
        key_from(text)


@pytest.mark.parametrize("text", ["cookie:", "cookie:a b", "cookie:a=b"])
def test_no_such_cookie(text: str) -> None:
    with pytest.raises(ValueError, match="name of a cookie"):
        key_from(text)
