"""Starting, watching and restarting child processes, without threads and without asyncio.

Children are forked. What is heavy to import was imported before, so that a killed worker is
replaced within milliseconds, and its memory is mostly shared. A child dies with its
supervisor (PR_SET_PDEATHSIG): nothing is ever orphaned, whatever ends the supervisor.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lbctl.core.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("lbctl.supervisor")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SETTLED_S = 10.0
"""A child that ran this long is restarted at once, and its backoff starts anew."""


@dataclass(slots=True)
class Child:
    """One child and how to start it again.

    `body` runs in the forked process and does not return to the caller. `wanted` is False
    once the child is to end; a child that ends while wanted is restarted.
    """

    role: str
    name: str
    body: Callable[[], None]
    death_signal: signal.Signals = signal.SIGTERM
    own_group: bool = False
    on_exit: Callable[[], None] | None = None
    wanted: bool = True
    renewed: bool = False  # it was told to end in order to be started again
    pid: int = 0
    restarts: int = -1
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started_s: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(0.1, 5.0))
    quick_deaths: int = 0

    @property
    def alive(self) -> bool:
        return self.pid > 0

    def signal(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)


class Children:
    """The children of this process, by pid."""

    def __init__(self, close_in_child: Callable[[], None]) -> None:
        """`close_in_child` closes in a new child what only the supervisor should hold."""
        self._close_in_child = close_in_child
        self._by_pid: dict[int, Child] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        # nginx's own workers become ours when their master is killed, so that we reap them.
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(self, child: Child) -> None:
        """Fork it. Raises OSError if the system has no room for another process."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._run(child, parent)
        child.pid = pid
        child.restarts += 1
        child.started_at = datetime.now(UTC)
        child.started_s = time.monotonic()
        self._by_pid[pid] = child

    def _run(self, child: Child, parent: int) -> None:
        """In the new process: never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            if child.own_group:
                os.setsid()
            self._close_in_child()
            self._libc.prctl(_PR_SET_PDEATHSIG, int(child.death_signal), 0, 0, 0)
            if os.getppid() == parent:  # else it died before the line above
                child.body()
                status = 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:  # noqa: BLE001 - a child must not run the supervisor's code
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def reap(self) -> list[tuple[Child, int]]:
        """The children that have ended, with their wait status; strangers are buried too."""
        ended: list[tuple[Child, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            child = self._by_pid.pop(pid, None)
            if child is None:
                continue
            if child.own_group:
                # Whatever the program left behind would hold its ports.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            child.pid = 0
            ended.append((child, status))

    @property
    def alive(self) -> list[Child]:
        return list(self._by_pid.values())


def restart_delay_s(child: Child, chance: float) -> float:
    """How long to wait before a child that ended is started again: not at all if it had run
    well, or for the first time it has not; then longer each time.
    """
    if time.monotonic() - child.started_s >= _SETTLED_S:
        child.backoff.reset()
        child.quick_deaths = 0
        return 0.0
    child.quick_deaths += 1
    return 0.0 if child.quick_deaths == 1 else child.backoff.next_s(chance)


def how_it_ended(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        return f"killed by {_name(os.WTERMSIG(status))}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # of the real-time ones two have a name
        return f"signal {number}"


def become(uid: int, gid: int) -> None:
    """Drop root for good, with all its groups; the death signal has to be set again."""
    parent = os.getppid()
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)  # it died before the line above
