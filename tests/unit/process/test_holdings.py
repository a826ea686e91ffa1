"""What a supervisor holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lbctl.errors import OperationError
from lbctl.paths import Paths
from lbctl.process import holdings

if TYPE_CHECKING:
    from pathlib import Path


def test_a_lock_is_held_once_and_free_again(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "state", tmp_path / "secrets")
    first = holdings.lock(paths)
    with pytest.raises(OperationError, match="already runs"):
        holdings.lock(paths)
    first.close()
    second = holdings.lock(paths)
    holdings.tell_pid(second)
    assert int(paths.lock.read_text()) > 0
    second.close()


def test_a_log_is_cut_past_its_limit_and_those_who_append_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdings, "_LOG_LIMIT_BYTES", 10)
    log = tmp_path / "lb.log"
    with log.open("a") as writer:
        writer.write("short\n")
        writer.flush()
        holdings.rotate(log)
        assert log.read_text() == "short\n"
        writer.write("long enough\n")
        writer.flush()
        holdings.rotate(log)
        writer.write("new\n")
        writer.flush()
    assert log.read_text() == "new\n"
    assert (tmp_path / "lb.log.1").read_text() == "short\nlong enough\n"


def test_rotating_what_is_not_there_does_nothing(tmp_path: Path) -> None:
    holdings.rotate(tmp_path / "none.log")
    assert list(tmp_path.iterdir()) == []
