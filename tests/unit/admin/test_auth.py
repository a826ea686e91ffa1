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
        ({"Origin": "http://["}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Origin": "http://127.0.0.1:9900", "Sec-Fetch-Site": "cross-site"}, True),
    ],
)
def test_cross_site(headers: dict[str, str], cross: bool) -> None:
    assert is_cross_site({"Host": "127.0.0.1:9900", **headers}) is cross


def test_both_tokens_are_right_while_one_retires() -> None:
    old = ["old"]
    rotating = Access(lambda: "new", lambda: LOOPBACK, lambda: old[0])
    for token in ("old", "new"):
        assert rotating.holds_token({"Authorization": f"Bearer {token}"})
    for token in ("", "oldnew", "ol", "other"):
        assert not rotating.holds_token({"Authorization": f"Bearer {token}"})
    old[0] = ""
    assert not rotating.holds_token({"Authorization": "Bearer old"})
    assert not rotating.holds_token({"Authorization": "Bearer "})


@pytest.mark.parametrize(
    ("peer", "headers", "kind"),
    [
        ("127.0.0.1", {"Host": "localhost"}, None),
        ("127.0.0.1", {"Host": "evil.example"}, "host"),
        ("127.0.0.1", {"Host": "evil.example", "Authorization": "Bearer wrong"}, "host"),
        ("127.0.0.1", {"Host": "evil.example", "Authorization": "Bearer s3cret"}, None),
        ("127.0.0.1", {"Host": "lb.example"}, None),
        ("172.18.0.2", {"Host": "172.18.0.3:9900"}, "token"),
        ("172.18.0.2", {"Host": "lbctl-pod:9900"}, "host"),
        ("172.18.0.2", {"Host": "lbctl-pod:9900", "Authorization": "Bearer s3cret"}, None),
        ("127.0.0.1", {"Host": "localhost", "Origin": "http://evil.example"}, "cross-site"),
        ("127.0.0.1", {"Host": "localhost", "Sec-Fetch-Site": "cross-site"}, "cross-site"),
        (
            "127.0.0.1",
            {"Host": "localhost", "Sec-Fetch-Site": "cross-site",
             "Authorization": "Bearer s3cret"},
            "cross-site",
        ),
    ],
)  # fmt: skip
def test_who_may_ask(peer: str, headers: dict[str, str], kind: str | None) -> None:
    rules = Access(lambda: TOKEN, lambda: GATEWAY, names=frozenset({"lb.example"}))
    objection = rules.objection("GET", peer, [headers["Host"]], headers)
    assert (None if objection is None else objection.kind) == kind
    if objection is not None:
        assert objection.status == (401 if kind == "token" else 403)


@pytest.mark.parametrize(
    ("method", "mode", "dest", "allowed"),
    [
        ("GET", "navigate", "document", True),
        ("GET", "navigate", "iframe", False),
        ("GET", "no-cors", "script", False),
        ("GET", "cors", "empty", False),
        ("POST", "navigate", "document", False),
    ],
)
def test_a_link_may_lead_here(method: str, mode: str, dest: str, allowed: bool) -> None:
    headers = {
        "Host": "localhost", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode,
        "Sec-Fetch-Dest": dest,
    }  # fmt: skip
    objection = access().objection(method, "127.0.0.1", ["localhost"], headers)
    assert (objection is None) == allowed
