"""Who of several controllers decides: the one that holds a lock.

The kernel gives the lock (flock(2)) up with the process that held it, however that ended. So
there is never a second leader, and never none for longer than it takes another to wake up.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
from typing import TYPE_CHECKING

from lbctl.errors import OperationError

if TYPE_CHECKING:
    from pathlib import Path


class Leadership:
    """One controller's claim. Once it was acquired it is held until the process ends."""

    def __init__(self, path: Path) -> None:
        """Raises OperationError where there can be no such file."""
        try:
            path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OperationError(f"cannot use {path}: {error.strerror}") from None

    async def acquire(self) -> None:
        """Return as the leader. Cancelled, it leaves a thread behind that waits on; the process
        is to end soon after.
        """
        loop = asyncio.get_running_loop()
        acquired = asyncio.Event()

        def wait() -> None:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(acquired.set)

        # Not the executor's: nobody may have to wait for this one at the end.
        threading.Thread(target=wait, name="leadership", daemon=True).start()
        await acquired.wait()
