"""Processes are found by what they hold, and end whatever they do."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lbctl.deploy import Unwatched
from lbctl.deploy import processes as module
from lbctl.deploy.processes import Processes, _state
from lbctl.errors import DeadlineError
from lbctl.paths import Paths
from tests.support.deadlines import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HOLDS = """
import fcntl, signal, sys
for number in sys.argv[3:]:
    signal.signal(int(number), signal.SIG_IGN)
alive, lock = open(sys.argv[1], "w"), open(sys.argv[2], "w")
fcntl.flock(alive, fcntl.LOCK_SH)
fcntl.lockf(lock, fcntl.LOCK_EX)
print(flush=True)
signal.pause()
"""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path, tmp_path / "secrets")


@contextlib.contextmanager
def holder(paths: Paths, *ignored: int) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor, by what it holds."""
    words = [str(paths.alive), str(paths.lock), *map(str, ignored)]
    process = subprocess.Popen([sys.executable, "-c", _HOLDS, *words], stdout=subprocess.PIPE)
    with process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


async def test_a_supervisor_is_who_holds_the_lock(paths: Paths) -> None:
    it = Processes(paths)
    assert it.supervisor() == 0
    with holder(paths) as process:
        assert it.supervisor() == process.pid
        assert not it.listens(process.pid)
        paths.lock.write_text(f"{process.pid}\n")
        assert it.listens(process.pid)
        await it.end(process.pid, 0.0, Unwatched())
        assert process.wait() == -signal.SIGTERM
    assert it.supervisor() == 0


async def test_who_does_not_end_is_killed(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "END_MARGIN_S", 0.1)
    with holder(paths, signal.SIGTERM) as process:
        await Processes(paths).end(process.pid, 0.0, Unwatched())
        assert process.wait() == -signal.SIGKILL


async def test_who_is_stopped_is_killed_and_nobody_else(paths: Paths) -> None:
    it = Processes(paths)
    with holder(paths) as process:
        await it.bury_stopped()
        assert _state(process.pid) not in "ZX"
        process.send_signal(signal.SIGSTOP)
        await eventually(lambda: _state(process.pid) == "T")
        await it.bury_stopped()
        assert _state(process.pid) == "Z"
        assert process.wait() == -signal.SIGKILL
        assert _state(process.pid) == ""


async def test_who_cannot_be_killed_is_named(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "END_MARGIN_S", 0.05)
    monkeypatch.setattr(module, "_signal", lambda *_: None)
    with holder(paths) as process, pytest.raises(DeadlineError, match=f"do not end: {process.pid}"):
        await Processes(paths).end(process.pid, 0.0, Unwatched())
