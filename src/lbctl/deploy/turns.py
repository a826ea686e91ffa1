"""One command at a time brings a stack up, changes its containers, or takes it down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from typing import IO, TYPE_CHECKING, Final

from lbctl.deploy.processes import flocked
from lbctl.errors import DeadlineError, OperationError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from lbctl.deploy import Progress

_POLL_S: Final = 0.02


def opened(lock: Path) -> IO[str]:
    """The file, for nobody else to open: whoever can read it can hold it. Raises OperationError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(lock, flags, 0o600)
        os.fchmod(descriptor, 0o600)  # it may be older than this rule
    except OSError as error:
        raise OperationError(f"cannot use {lock.parent}: {error.strerror}") from None
    return os.fdopen(descriptor, "r+")


@contextlib.asynccontextmanager
async def turn(
    file: IO[str], project: str, progress: Progress, within_s: float
) -> AsyncIterator[None]:
    """Hold the lock on `file` for the block, and close it: whoever comes meanwhile waits. It is
    let go when its holder dies. Raises DeadlineError after `within_s`.
    """
    with file:
        deadline = time.monotonic() + within_s
        if not flocked(file):
            progress.note(f"waiting for another lbctl up, upgrade or down of project {project!r}")
            while not flocked(file):
                if time.monotonic() > deadline:
                    raise DeadlineError(
                        f"another lbctl up, upgrade or down of project {project!r} is at work"
                    )
                await asyncio.sleep(_POLL_S)
        yield


def make_base(base: Path) -> None:
    """Make the directory that stacks lie in, whatever the umask, and refuse one in which
    another user could change what lies there.
    """
    missing = [one for one in (base, *base.parents) if not one.exists()]
    try:
        for directory in reversed(missing):
            directory.mkdir()
            directory.chmod(0o755)
        facts, itself = base.stat(), base.lstat()
    except OSError as error:
        raise OperationError(f"cannot use {base}: {error.strerror}") from None
    open_to_others = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    sticky = facts.st_mode & stat.S_ISVTX  # as in /tmp, each user's own is safe from the others
    owners = {facts.st_uid, itself.st_uid}  # it may be a link
    if not owners <= {0, os.geteuid()} or (open_to_others and not sticky):
        raise UsageError(
            f"{base} is open to other users: set LBCTL_STATE_DIR to a place that is not"
        )
