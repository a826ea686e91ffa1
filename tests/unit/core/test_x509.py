"""Certificates are read as OpenSSL writes them, and nothing else is taken for one."""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.x509 import read
from tests.support.pairs import OPENSSL, make

if TYPE_CHECKING:
    from lbctl.model import Certificate

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")
DAY_S = 86_400


def der(*names: str, days: float = 90, begins_days: float = -1, key: str = "ec") -> bytes:
    made = make(*names, days=days, begins_days=begins_days, key=key)
    return ssl.PEM_cert_to_DER_cert(made.cert.decode())


def read_or_refused(data: bytes) -> Certificate | None:
    try:
        return read(data, "x")
    except ValueError:
        return None


@pytest.mark.parametrize("key", ["ec", "rsa"])
def test_names_and_validity(key: str) -> None:
    now_s = time.time()
    certificate = read(der("A.test", "*.B.test", "a.test", key=key), "shop")
    assert certificate.name == "shop"
    assert certificate.names == ("a.test", "*.b.test")
    assert certificate.not_before_s == pytest.approx(now_s - DAY_S, abs=60)
    assert certificate.not_after_s == pytest.approx(now_s + 90 * DAY_S, abs=60)


@pytest.mark.parametrize("days", [-30, 365, 365 * 40])  # the last is written in another form
def test_whatever_the_time_may_be(days: int) -> None:
    certificate = read(der("a.test", days=days, begins_days=days - 1), "x")
    assert certificate.not_after_s == pytest.approx(time.time() + days * DAY_S, abs=60)
    assert certificate.not_after_s - certificate.not_before_s == pytest.approx(DAY_S, abs=2)


def test_one_without_names() -> None:
    assert read(der(), "x").names == ()


def test_one_with_many_names() -> None:
    names = [f"host-{number}.shop.test" for number in range(200)]
    assert read(der(*names), "x").names == tuple(names)


@pytest.fixture(scope="module")
def whole() -> bytes:
    return der("a.test", "*.b.test")


def test_no_part_of_one_is_one(whole: bytes) -> None:
    for end in range(len(whole)):
        assert read_or_refused(whole[:end]) is None
    assert read_or_refused(whole + b"\x00") is None


@given(st.data())
def test_a_changed_byte_is_read_or_refused(whole: bytes, data: st.DataObject) -> None:
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    read_or_refused(bytes(changed))


@given(st.binary(max_size=200))
def test_nothing_else_is_one(data: bytes) -> None:
    assert read_or_refused(data) is None
