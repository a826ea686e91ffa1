"""What this hop says of a client, and whose word it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.forwarding import request_head
from lbctl.core.http1 import Request, parse_request
from lbctl.core.origin import Hop, Origin, networks

TRUSTED = networks("10.0.0.0/8, 2001:db8::1")
HOP = Hop("lbctl-1", "w-", TRUSTED)


def request(*lines: bytes) -> Request:
    return parse_request(b"\r\n".join((b"GET / HTTP/1.1", b"Host: h", *lines, b"", b"")), 100)


def seen(origin: Origin, *lines: bytes) -> dict[bytes, list[bytes]]:
    """What a backend sees: the values of each field."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in parse_request(request_head(request(*lines), origin, 42), 100).fields:
        fields.setdefault(name, []).append(value)
    return fields


def test_networks_are_read_with_or_without_spaces() -> None:
    assert [str(one) for one in networks(" 10.0.0.0/8,, 192.0.2.7 ")] == [
        "10.0.0.0/8", "192.0.2.7/32",
    ]  # fmt: skip
    assert networks("") == ()
    for nonsense in ("10.0.0.1/8", "site", "10.0.0.0/33"):
        with pytest.raises(ValueError, match=r"\d|site"):
            networks(nonsense)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("::ffff:203.0.113.0/120", "203.0.113.0/24"), ("::ffff:203.0.113.7", "203.0.113.7/32"),
     ("::ffff:0:0/96", "0.0.0.0/0"), ("::/0", "::/0"), ("::ffff:0:0/95", None),
     ("::fffe:0:0/96", "::fffe:0:0/96"), ("2001:db8::/32", "2001:db8::/32")],
)  # fmt: skip
def test_networks_of_mapped_addresses_are_those_of_ipv4(said: str, meant: str | None) -> None:
    if meant is None:
        with pytest.raises(ValueError, match="host bits"):
            networks(said)
    else:
        assert [str(one) for one in networks(said)] == [meant]


@pytest.mark.parametrize(
    ("ip", "trusted"),
    [("10.1.2.3", True), ("11.1.2.3", False), ("::ffff:10.1.2.3", True), ("2001:db8::1", True),
     ("2001:db8::2", False), ("", False), ("unknown", False)],
)  # fmt: skip
def test_who_is_trusted(ip: str, trusted: bool) -> None:
    assert HOP.trusts(ip) is trusted
    assert not Hop("lbctl-1", "w-").trusts(ip)


CLAIMS = (
    b"X-Forwarded-For: 6.6.6.6, 198.51.100.1", b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: site.example", b"X-Forwarded-Port: 443", b"X-Request-Id: theirs",
    b"Forwarded: for=198.51.100.1;proto=https", b"x_forwarded_for: 7.7.7.7",
    b"x_request_id: alias", b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)  # fmt: skip


def test_a_stranger_is_not_believed() -> None:
    fields = seen(Origin(HOP, "192.0.2.7", "http"), *CLAIMS)
    assert fields[b"x-forwarded-for"] == [b"192.0.2.7"]
    assert fields[b"x-forwarded-proto"] == [b"http"]
    assert fields[b"x-forwarded-host"] == [b"h"]
    assert fields[b"forwarded"] == [b"for=192.0.2.7;proto=http"]
    assert fields[b"x-request-id"] == [b"w-2a"]
    assert fields[b"traceparent"] == [CLAIMS[-1].partition(b" ")[2]]
    assert not fields.keys() & {b"x-forwarded-port", b"x_forwarded_for", b"x_request_id"}


def test_a_proxy_of_ours_is_and_its_chain_goes_on() -> None:
    fields = seen(Origin(HOP, "10.0.0.1", "http"), *CLAIMS)
    assert fields[b"x-forwarded-for"] == [b"6.6.6.6, 198.51.100.1, 10.0.0.1"]
    assert fields[b"x-forwarded-proto"] == [b"https"]
    assert fields[b"x-forwarded-host"] == [b"site.example"]
    assert fields[b"x-forwarded-port"] == [b"443"]
    assert fields[b"forwarded"] == [b"for=198.51.100.1;proto=https, for=10.0.0.1;proto=http"]
    assert fields[b"x-request-id"] == [b"theirs"]
    assert not fields.keys() & {b"x_forwarded_for", b"x_request_id"}


def test_a_proxy_of_ours_that_says_nothing_is_told_about_like_a_client() -> None:
    mine, theirs = (seen(Origin(HOP, ip, "http")) for ip in ("10.0.0.1", "192.0.2.7"))
    assert mine.keys() == theirs.keys()
    assert mine[b"x-forwarded-for"] == [b"10.0.0.1"]
    assert mine[b"x-request-id"] == [b"w-2a"]


@pytest.mark.parametrize("bad", [b"a b", b"x" * 129, b"\xff", b""])
def test_an_id_that_is_none_is_replaced(bad: bytes) -> None:
    line = b"X-Request-Id: " + bad
    assert seen(Origin(HOP, "10.0.0.1", "http"), line)[b"x-request-id"] == [b"w-2a"]


def test_an_ipv6_client_is_quoted_in_forwarded() -> None:
    fields = seen(Origin(HOP, "2001:db8::2", "https"))
    assert fields[b"forwarded"] == [b'for="[2001:db8::2]";proto=https']
    assert fields[b"x-forwarded-for"] == [b"2001:db8::2"]


@pytest.mark.parametrize(
    ("chain", "client"),
    [(b"198.51.100.1", "198.51.100.1"), (b"6.6.6.6, 198.51.100.1", "198.51.100.1"),
     (b"6.6.6.6, 198.51.100.1, 10.0.0.9", "198.51.100.1"), (b"10.0.0.9", "10.0.0.9"),
     (b"", "10.0.0.1"), (b"nonsense", "10.0.0.1"), (b"6.6.6.6, x, 10.0.0.9", "10.0.0.9"),
     (b'::1%", "client": "6.6.6.6, 10.0.0.9', "10.0.0.9"), (b'2001:db8::7%"', "10.0.0.1"),
     (b"198.51.100.1:5678", "198.51.100.1"), (b"[2001:db8::7]:5678", "2001:db8::7"),
     (b"[2001:db8::7]", "2001:db8::7"), (b"2001:db8::7:5678", "2001:db8::7:5678"),
     (b"6.6.6.6, 198.51.100.1:1, 10.0.0.9:65535", "198.51.100.1"),
     (b"198.51.100.1:x", "10.0.0.1"), (b"198.51.100.1:", "10.0.0.1"), (b"[]:1", "10.0.0.1"),
     (b"[fe80::1%1]:1", "10.0.0.1"), (b":1", "10.0.0.1"), (b"[::1]:123456", "10.0.0.1"),
     (b"fe80::1%\xe9", "10.0.0.1"), (b"6.6.6.6, fe80::1%eth0, 10.0.0.9", "10.0.0.9")],
)  # fmt: skip
def test_the_client_is_the_last_in_the_chain_that_is_not_ours(chain: bytes, client: str) -> None:
    asked = request(b"X-Forwarded-For: " + chain)
    assert Origin(HOP, "10.0.0.1", "http").client(asked) == client
    assert Origin(HOP, "192.0.2.7", "http").client(asked) == "192.0.2.7"


@pytest.mark.parametrize(
    ("via", "loop"),
    [(b"1.1 lbctl-1", True), (b"1.0 x, 1.1 lbctl-1 (a comment)", True), (b"HTTP/1.1 lbctl-1", True),
     (b"1.1 lbctl-1, 1.1 other", True), (b"1.1 lbctl-2", False), (b"1.1 lbctl-11", False),
     (b"1.1 xlbctl-1", False), (b"lbctl-1", False)],
)  # fmt: skip
def test_a_request_that_was_here_before_is_a_loop(via: bytes, loop: bool) -> None:
    assert HOP.is_loop(request(b"Via: " + via)) is loop


def test_what_this_hop_writes_is_what_it_finds_again() -> None:
    again = parse_request(request_head(request(), Origin(HOP, "192.0.2.7", "http"), 1), 100)
    assert HOP.is_loop(again)
    assert not Hop("lbctl-2", "w-").is_loop(again)


@given(st.binary(max_size=60))
def test_no_claim_of_a_trusted_peer_breaks_the_head(claim: bytes) -> None:
    clean = bytes(byte for byte in claim if byte == 9 or 0x20 <= byte != 0x7F)
    lines = [name + b": " + clean for name in (b"X-Forwarded-For", b"Forwarded", b"X-Request-Id")]
    origin = Origin(HOP, "10.0.0.1", "http")
    head = request_head(request(*lines), origin, 1)
    parse_request(head, 100)
    origin.client(request(*lines))
