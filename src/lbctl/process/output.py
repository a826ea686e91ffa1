"""Standard output that never blocks: a line that cannot be written is dropped, not waited for.

In a container stdout is a pipe that the engine empties. While the engine is gone nobody does;
once it is full a write would block for ever, and with it the event loop that made it. So the pipe
is made non-blocking, and what does not fit is counted, and told as soon as there is room. And it is
made as long as the kernel lets anybody make one, for an engine that is slow for a moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import stat
from datetime import UTC, datetime

_WHOLE_BYTES = select.PIPE_BUF
"""As much goes into a pipe in one piece or not at all (POSIX, write())."""
_STDOUT = 1
_PIPE_BYTES = 1 << 20
"""What /proc/sys/fs/pipe-max-size allows without a privilege (pipe(7)); it begins with 64 KiB."""


def never_block() -> None:
    """Called once, before other processes are forked: they share the pipe, and its mode."""
    if stat.S_ISFIFO(os.fstat(_STDOUT).st_mode):
        os.set_blocking(_STDOUT, False)
        with contextlib.suppress(OSError):  # where this user has too much in pipes already
            fcntl.fcntl(_STDOUT, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


class Output:
    """Writes lines to a file descriptor. Has the methods of a stream, for logging."""

    def __init__(self, descriptor: int = _STDOUT, role: str = "") -> None:
        """`role` is who loses lines, where some are lost."""
        self._descriptor = descriptor
        self._role = role
        self.dropped = 0  # lines, since the last that could be written
        self.lost = 0  # lines, since the beginning

    def write(self, text: str) -> int:
        """Write whole lines; never blocks, never raises."""
        batch: list[bytes] = []
        size = 0
        for line in text.encode(errors="replace").splitlines(keepends=True):
            if batch and size + len(line) > _WHOLE_BYTES:
                self._put(batch)
                batch, size = [], 0
            batch.append(line)
            size += len(line)
        if batch:
            self._put(batch)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def _put(self, lines: list[bytes]) -> None:
        # The notice is a write of its own: with it a batch could be more than goes in as a whole.
        try:
            if self.dropped:
                os.write(self._descriptor, self._notice())
                self.dropped = 0
            os.write(self._descriptor, b"".join(lines))
        except OSError:  # no room in the pipe or on the disk
            self.dropped += len(lines)
            self.lost += len(lines)

    def _notice(self) -> bytes:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        notice = {
            "time": moment[:-6] + "Z",
            "log": "control",
            "level": "warning",
            "role": self._role,
            "source": __name__,
            "message": "log lines were lost",
            "lines": self.dropped,
        }
        return json.dumps(notice).encode() + b"\n"
