"""Where plain HTTP sends its clients, and the header that keeps them there."""

from __future__ import annotations

import pytest

from lbctl.core.http1 import parse_request
from lbctl.core.redirecting import is_acme_challenge, secure_location, with_hsts

LINE = b"Strict-Transport-Security: max-age=5\r\n"


@pytest.mark.parametrize(
    ("host", "target", "port", "location"),
    [
        (b"shop.test", b"/", 443, b"https://shop.test/"),
        (b"shop.test:8080", b"/a?b=c&d=%0d%0a", 443, b"https://shop.test/a?b=c&d=%0d%0a"),
        (b"shop.test:", b"/", 8443, b"https://shop.test:8443/"),
        (b"192.0.2.1:80", b"/x", 8443, b"https://192.0.2.1:8443/x"),
        (b"[2001:db8::1]:80", b"/x", 8443, b"https://[2001:db8::1]:8443/x"),
        (b"shop.test", b"//evil.test/x", 443, b"https://shop.test//evil.test/x"),
        (b"a-b_c.test.", b"/", 443, b"https://a-b_c.test./"),
        # What is no host is sent nowhere.
        (b"", b"/", 443, None),
        (b"shop.test,evil.test", b"/", 443, None),
        (b"user@evil.test", b"/", 443, None),
        (b"%65vil.test", b"/", 443, None),
        (b"a;b", b"/", 443, None),
        (b"-a.test", b"/", 443, None),
        (b"a..test", b"/", 443, None),
        (b"x" * 64 + b".test", b"/", 443, None),
        (b".".join([b"x" * 60] * 5), b"/", 443, None),
    ],
)
def test_the_same_place_under_https(
    host: bytes, target: bytes, port: int, location: bytes | None
) -> None:
    head = b"GET %b HTTP/1.1\r\nHost: site\r\n\r\n" % target
    request = parse_request(head, 100)
    request.host = host
    assert secure_location(request, port) == location


def test_an_absolute_target_says_where() -> None:
    head = b"GET http://shop.test/x HTTP/1.1\r\nHost: shop.test\r\n\r\n"
    assert secure_location(parse_request(head, 100), 443) == b"https://shop.test/x"


def test_the_server_itself_is_at_its_root() -> None:
    request = parse_request(b"OPTIONS * HTTP/1.1\r\nHost: shop.test\r\n\r\n", 100)
    assert secure_location(request, 443) == b"https://shop.test/"


@pytest.mark.parametrize(
    ("target", "goes_through"),
    [
        (b"/.well-known/acme-challenge/abc_-09XYZ", True),
        (b"/.well-known/acme-challenge/", False),
        (b"/.well-known/acme-challenge", False),
        (b"/.well-known/acme-challenge/a/b", False),
        (b"/.well-known/acme-challenge/../../secret", False),
        (b"/.well-known/acme-challenge/a?b", False),
        (b"/.well-known/acme-challenge/%2e%2e", False),
        (b"/.WELL-KNOWN/acme-challenge/a", False),
        (b"//.well-known/acme-challenge/a", False),
    ],
)
def test_an_acme_challenge_goes_through(target: bytes, goes_through: bool) -> None:
    assert is_acme_challenge(target) is goes_through


@pytest.mark.parametrize(
    ("head", "after"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + LINE + b"\r\n"),
        (
            b"HTTP/1.1 200 OK\r\nA: b\r\nstrict-transport-security: max-age=0\r\nC: d\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n" + LINE + b"\r\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nStrict-Transport-Security:\tx\r\n"
            b"STRICT-TRANSPORT-SECURITY:\r\nX-Strict-Transport-Security: y\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX-Strict-Transport-Security: y\r\n" + LINE + b"\r\n",
        ),
    ],
)
def test_hsts_is_said_once(head: bytes, after: bytes) -> None:
    assert with_hsts(head, LINE) == after
