"""What a supervisor does about certificates that are replaced while it serves."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lbctl.config import Config, Tls
from lbctl.errors import OperationError, UsageError
from lbctl.model import Certificate
from lbctl.process.renewal import Renewal, expiry_text
from tests.support.pairs import OPENSSL, Made, make

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")
DAY_S = 86_400
NOW_S = 1_800_000_000


@pytest.fixture(scope="module")
def pairs() -> list[Made]:
    return [make("a.test"), make("a.test")]


def settings(directory: Path, **tls: str) -> Config:
    return replace(Config(), tls=Tls(**({"tls_dir": str(directory)} | tls)))  # type: ignore[arg-type]


def test_without_tls_there_is_nothing(tmp_path: Path) -> None:
    renewal = Renewal(Config())
    renewal.look()
    renewal.read()
    assert renewal.credentials is None
    assert renewal.certificates == []
    with pytest.raises(UsageError):
        Renewal(settings(tmp_path, tls_cert="x"))
    with pytest.raises(OperationError):
        Renewal(settings(tmp_path))


def test_new_files_are_read_once_they_rest(tmp_path: Path, pairs: list[Made]) -> None:
    pairs[0].put(tmp_path, "a")
    renewal = Renewal(settings(tmp_path))
    first = renewal.credentials
    for _ in range(3):
        renewal.look()
    assert renewal.credentials is first
    pairs[1].put(tmp_path, "a")
    renewal.look()
    assert renewal.credentials is first  # they may not all be there yet
    renewal.look()
    second = renewal.credentials
    assert second is not first
    renewal.look()
    renewal.look()
    assert renewal.credentials is second


def test_workers_that_do_not_get_so_far_are_tried_again_later(
    tmp_path: Path, pairs: list[Made]
) -> None:
    pairs[0].put(tmp_path, "a")
    renewal = Renewal(settings(tmp_path))
    used = renewal.credentials
    assert not renewal.due(used, 10)
    pairs[1].put(tmp_path, "a")
    assert not renewal.due(used, 11)  # they have to rest first
    assert renewal.due(used, 12)
    renewal.failed(12)
    assert not renewal.due(used, 13)
    assert not renewal.due(used, 41.9)
    assert renewal.due(used, 42)
    assert not renewal.due(renewal.credentials, 43)  # the workers have them


def test_what_was_written_again_unchanged_changes_nothing(
    tmp_path: Path, pairs: list[Made]
) -> None:
    pairs[0].put(tmp_path, "a")
    renewal = Renewal(settings(tmp_path))
    first = renewal.credentials
    pairs[0].put(tmp_path, "a")
    renewal.look()
    renewal.look()
    assert renewal.credentials is first


def test_half_of_a_new_pair_is_told_once_and_not_used(
    tmp_path: Path, pairs: list[Made], caplog: pytest.LogCaptureFixture
) -> None:
    pairs[0].put(tmp_path, "a")
    renewal = Renewal(settings(tmp_path))
    first = renewal.credentials
    (tmp_path / "a.crt").write_bytes(pairs[1].cert)
    for _ in range(5):
        renewal.look()
    renewal.read()
    assert renewal.credentials is first
    told = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert len(told) == 1
    assert "not that of the certificate" in told[0]
    (tmp_path / "a.key").write_bytes(pairs[1].key)
    renewal.look()
    renewal.look()
    assert renewal.credentials is not first
    # The same fault again is another one.
    (tmp_path / "a.key").write_bytes(pairs[0].key)
    renewal.look()
    renewal.look()
    assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 2


def test_an_expired_one_is_served_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make("old.test", days=-2, begins_days=-9).put(tmp_path, "old")
    renewal = Renewal(settings(tmp_path))
    assert [one.name for one in renewal.certificates] == ["old"]
    assert "certificate old has expired" in caplog.text


@pytest.mark.parametrize(
    ("begins_days", "ends_days", "text"),
    [
        (-1, 90, ""),
        (-1, 14, ""),
        (-1, 13.9, "expires in 13 days: 2027-01-29 05:36 UTC"),
        (-1, 0.5, "expires in 0 days: 2027-01-15 20:00 UTC"),
        (-1, 0, "has expired: 2027-01-15 08:00 UTC"),
        (-9, -1, "has expired: 2027-01-14 08:00 UTC"),
        (1, 90, "is not valid before 2027-01-16 08:00 UTC"),
    ],
)
def test_what_is_said_of_its_validity(begins_days: float, ends_days: float, text: str) -> None:
    certificate = Certificate(
        "x", (), int(NOW_S + begins_days * DAY_S), int(NOW_S + ends_days * DAY_S)
    )
    assert expiry_text(certificate, NOW_S) == text
