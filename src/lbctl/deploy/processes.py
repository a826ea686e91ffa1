"""The processes of a local stack, found by what they hold: `supervisor.lock` the supervisor alone,
`alive.lock` all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lbctl.deploy import Count
from lbctl.errors import DeadlineError, OperationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.deploy import Progress
    from lbctl.paths import Paths

END_MARGIN_S = 15.0
_POLL_S = 0.02
_TELL_S = 0.2  # between two looks at who is left


class Processes:
    """Those of one state directory. Raises OperationError where they are another user's."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def supervisor(self) -> int:
        """Its pid, or 0 if none lives. Raises OperationError if that cannot be known."""
        try:
            with self._paths.lock.open("r") as file:
                return _holder(file)
        except FileNotFoundError:
            return 0
        except PermissionError:
            raise OperationError(
                f"the stack in {self._paths.own} is another user's\n"
                "run this as that user, or as root"
            ) from None
        except OSError as error:
            raise OperationError(f"cannot read {self._paths.lock}: {error.strerror}") from None

    def listens(self, pid: int) -> bool:
        """Whether the supervisor is this one, and listens."""
        return self.supervisor() == pid and self._paths.lock.read_text() == f"{pid}\n"

    async def end(self, pid: int, drain_s: float, progress: Progress) -> None:
        """Ask the supervisor, if there is one (`pid`), to end, and wait until all its processes
        have. Those that have not a while after `drain_s`, because they hang, are killed. Raises
        DeadlineError if that fails too.
        """
        count = Count(progress, len(self._survivors()), "processes")
        if pid:
            _signal(pid, signal.SIGTERM)
        await self.bury_stopped()
        if await self._all_ended(drain_s + END_MARGIN_S, count):
            return
        _kill(self._survivors())
        if not await self._all_ended(END_MARGIN_S, count):
            pids = " ".join(map(str, self._survivors()))
            raise DeadlineError(f"these processes do not end: {pids}")

    async def bury_stopped(self) -> None:
        """Processes that are stopped hear nothing, and hold ports: they would for ever."""
        stopped = [pid for pid in self._survivors() if _is_stopped(pid)]
        _kill(stopped)
        deadline = time.monotonic() + END_MARGIN_S
        # Not until its files are gone from /proc: the kernel closes its sockets after that.
        while any(map(_lives, stopped)):
            if time.monotonic() > deadline:
                return  # what needs them gone says what is in its way
            await asyncio.sleep(_POLL_S)

    async def _all_ended(self, within_s: float, count: Count) -> bool:
        now_s = told_s = time.monotonic()
        deadline = now_s + within_s
        while self._somebody_lives():
            if now_s > deadline:
                return False
            if now_s - told_s >= _TELL_S:
                told_s = now_s
                count.left(len(self._survivors()))
            await asyncio.sleep(_POLL_S)
            now_s = time.monotonic()
        return True

    def _somebody_lives(self) -> bool:
        try:
            with self._paths.alive.open("r") as file:
                return not flocked(file)
        except FileNotFoundError:
            return bool(self.supervisor())

    def _survivors(self) -> list[int]:
        """The processes that hold the file which all processes of this lb hold."""
        try:
            alive = self._paths.alive.stat()
        except OSError:
            return []
        return [
            int(process.name)
            for process in Path("/proc").iterdir()
            if process.name.isdigit() and _has_open(process, alive)
        ]


def flocked(file: IO[str]) -> bool:
    """Whether this lock could be had; it is held until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> int:
    """Who holds the record lock on a file; asking does not take it (fcntl(2), F_GETLK)."""
    layout = "hhqqi"  # struct flock where off_t has 64 bits
    asked = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(layout, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    with contextlib.suppress(OSError):  # it has ended, or is another user's
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted):
                    return True
    return False


def _is_stopped(pid: int) -> bool:
    """By SIGSTOP, for one: it heeds no other signal until it goes on."""
    return _state(pid) == "T"


def _lives(pid: int) -> bool:
    """Whether there is more left of a process than its exit status."""
    return _state(pid) not in ("", "Z", "X")


def _state(pid: int) -> str:
    """The letter of proc(5), stat; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        if pid:
            os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise OperationError(f"process {pid} is another user's: run this as that user") from None
