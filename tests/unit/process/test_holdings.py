"""What a supervisor holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lbctl.errors import OperationError
from lbctl.paths import Paths
from lbctl.process import holdings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def lock_in_another_process(paths: Paths) -> str:
    """ "" if it could be had, else the error."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            holdings.lock(paths)
        except OperationError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return pipe.read()


def test_a_lock_is_held_once_and_free_again(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "state", tmp_path / "secrets")
    held = holdings.lock(paths)
    assert "already runs" in lock_in_another_process(paths)
    holdings.tell_pid(held)
    assert paths.lock.read_text() == f"{os.getpid()}\n"
    assert paths.lock.stat().st_mode & 0o777 == 0o600
    held.close()
    assert lock_in_another_process(paths) == ""


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
