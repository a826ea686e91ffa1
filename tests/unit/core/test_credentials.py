"""What opens one backend's admin port, and what can be read of it elsewhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import replace

import pytest

from lbctl.core.credentials import name_of, token_of
from lbctl.model import Backend

SECRET = "5a" * 32
BACKEND = Backend("0f3c", "backend-1", "172.18.0.4")


def test_a_token_is_a_key_and_its_fingerprint() -> None:
    token = token_of(SECRET, BACKEND)
    assert re.fullmatch(r"[0-9a-f]{64}\.[A-Za-z0-9_-]{22}", token)
    key, _, fingerprint = token.partition(".")
    message = b"lbctl lists\x000f3c\x00172.18.0.4"
    assert key == hmac.new(SECRET.encode(), message, hashlib.sha256).hexdigest()
    # As nginx computes it, which compares with what it decodes.
    digest = hashlib.md5(key.encode(), usedforsecurity=False).digest()
    assert base64.urlsafe_b64decode(fingerprint + "==") == digest


@pytest.mark.parametrize(
    "other",
    [
        replace(BACKEND, id="0f3d"),
        replace(BACKEND, ip="172.18.0.5"),
        replace(BACKEND, id="0f3c\x00172.18.0.4", ip=""),
        replace(BACKEND, id="0f3", ip="c172.18.0.4"),
    ],
)
def test_another_backend_and_another_address_have_another(other: Backend) -> None:
    assert token_of(SECRET, other) != token_of(SECRET, BACKEND)


def test_another_secret_makes_another() -> None:
    assert token_of("5b" * 32, BACKEND) != token_of(SECRET, BACKEND)


def test_what_is_not_who_or_where_changes_nothing() -> None:
    renamed = replace(BACKEND, name="other", weight=3, port=81)
    assert token_of(SECRET, renamed) == token_of(SECRET, BACKEND)


def test_a_name_has_the_address_and_no_key() -> None:
    token = token_of(SECRET, BACKEND)
    key, _, fingerprint = token.partition(".")
    name = name_of(token, BACKEND.ip)
    assert name == f"172.18.0.4-{fingerprint}"
    assert key not in name
    assert not set(name) & {"/", "\0"}
