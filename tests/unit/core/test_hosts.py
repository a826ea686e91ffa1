from __future__ import annotations

import pytest

from lbctl.core.hosts import host_names, is_own_host

NAMES = frozenset({"lb.example"})


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.1:9900", "localhost", "LOCALHOST:1", "[::1]", "[::1]:9900",
        "192.0.2.7:9900", "[2001:db8::1]:80", "lb.example", "LB.Example:9900",
    ],
)  # fmt: skip
def test_addresses_localhost_and_its_names_are_its_own(host: str) -> None:
    assert is_own_host([host], NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "evil.example:9900", "localhost.evil.example", "lb.example.", "127.1",
        "0x7f.0.0.1", "127.0.0.1.evil.example", "a@localhost", "localhost@evil", "localhost/",
        "::1", "[::1", "::1]", "[evil.example]", "[fe80::1%25eth0]", "localhost:", "localhost:x",
        " localhost", "localhost\t", "localhost:123456", "127.0.0.1,evil",
    ],
)  # fmt: skip
def test_others_are_not(host: str) -> None:
    assert not is_own_host([host], NAMES)


def test_none_is_of_no_browser_and_two_are_of_nobody() -> None:
    assert is_own_host([], NAMES)
    assert not is_own_host(["localhost", "localhost"], NAMES)


@pytest.mark.parametrize(
    ("text", "names"),
    [("", set()), ("lb.example", {"lb.example"}), (" Ops , lb.example", {"ops", "lb.example"})],
)
def test_names_of_the_setting(text: str, names: set[str]) -> None:
    assert host_names(text) == names


@pytest.mark.parametrize(
    "text", [",", "a,", "a b", "*", "*.example", "a..b", "-a", "a-", "a:80", "ä", "a/b", "x" * 64]
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no host name"):
        host_names(text)
