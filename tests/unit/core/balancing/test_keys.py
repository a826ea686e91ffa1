"""What of a request is hashed."""

from __future__ import annotations

import pytest

from lbctl.core.balancing.keys import by_client_ip, by_cookie, by_header

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
