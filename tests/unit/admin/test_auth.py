from __future__ import annotations

import ipaddress

import pytest

from lbctl.admin.auth import LOOPBACK, Access, is_cross_site

TOKEN = "s3cret"
GATEWAY = (*LOOPBACK, ipaddress.ip_network("172.18.0.1/32"))


def access(token: str = TOKEN) -> Access:
    return Access(lambda: token, lambda: GATEWAY)


@pytest.mark.parametrize(
    "peer", ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1", "172.18.0.1"]
)
def test_open_networks_read_freely(peer: str) -> None:
    assert access().may_read(peer, {})


@pytest.mark.parametrize(
    "peer", ["172.18.0.2", "10.0.0.1", "::2", "::ffff:172.18.0.2", "", "localhost", None]
)
def test_others_read_with_the_token_only(peer: str | None) -> None:
    assert not access().may_read(peer, {})
    assert not access().may_read(peer, {"Authorization": "Bearer wrong"})
    assert access().may_read(peer, {"Authorization": "Bearer s3cret"})


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        "s3cret",
        "Basic s3cret",
        "Bearer s3cre",
        "Bearer s3cret2",
        "Bearer é",
    ],
)
def test_wrong_tokens(given: str) -> None:
    assert not access().holds_token({"Authorization": given})


def test_the_scheme_is_case_insensitive() -> None:
    assert access().holds_token({"Authorization": "bEARER s3cret"})


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer "])
def test_an_absent_token_matches_nothing(given: str) -> None:
    assert not access("").holds_token({"Authorization": given})


def test_a_rotated_token_counts_at_once() -> None:
    tokens = ["old", "new"]
    both = Access(lambda: tokens[0], lambda: LOOPBACK)
    assert both.holds_token({"Authorization": "Bearer old"})
    tokens.pop(0)
    assert not both.holds_token({"Authorization": "Bearer old"})
    assert both.holds_token({"Authorization": "Bearer new"})


@pytest.mark.parametrize(
    ("headers", "cross"),
    [
        ({}, False),
        ({"Origin": "http://127.0.0.1:9900"}, False),
        ({"Origin": "http://127.0.0.1:9900", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Origin": "http://127.0.0.1:8080"}, True),
        ({"Origin": "http://evil.example"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": ""}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Origin": "http://127.0.0.1:9900", "Sec-Fetch-Site": "cross-site"}, True),
    ],
)
def test_cross_site(headers: dict[str, str], cross: bool) -> None:
    assert is_cross_site({"Host": "127.0.0.1:9900", **headers}) is cross
