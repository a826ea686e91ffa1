"""A program on a real terminal: a pseudo-terminal of a size, with keys to press."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from typing import TYPE_CHECKING

from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

_CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])")
HOME = "\x1b[H"
"""What begins a picture that is drawn in place."""


class Terminal:
    """`command`, started on a terminal of `columns` and `lines`; `with` ends it."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        columns: int = 80,
        lines: int = 24,
    ) -> None:
        pid, self._fd = pty.fork()
        if pid == 0:
            with contextlib.suppress(OSError):
                size = struct.pack("HHHH", lines, columns, 0, 0)
                fcntl.ioctl(0, termios.TIOCSWINSZ, size)
                os.execvpe(command[0], list(command), dict(environment))  # noqa: S606
            os._exit(127)
        self._pid = pid
        self._status: int | None = None
        self.raw = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is None:
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
        os.close(self._fd)

    @property
    def text(self) -> str:
        """All that was written, without colours and movements of the cursor."""
        return plain(self.raw)

    @property
    def pictures(self) -> list[str]:
        """What stood on the screen, one after the other; the last may be half drawn."""
        return [plain(part) for part in self.raw.split(HOME)[1:]]

    def press(self, keys: str) -> None:
        """As from the keyboard; "\\x03" is Ctrl-C."""
        os.write(self._fd, keys.encode())

    def signal(self, number: int) -> None:
        """To the program itself."""
        os.kill(self._pid, number)

    def wait(self, check: Callable[[Terminal], bool], within: float = 20.0) -> None:
        """Return when `check` holds of what was written so far."""
        end = time.monotonic() + scaled(within)
        while not check(self):
            left = end - time.monotonic()
            assert left > 0, f"not within {scaled(within):g} s: {self.text[-2000:]}"
            if not self._read(left):
                assert check(self), f"it ended: {self.text[-2000:]}"
                return

    def end(self, within: float = 20.0) -> int:
        """The exit status, when all is written."""
        end = time.monotonic() + scaled(within)
        while self._read(max(0.0, end - time.monotonic())):
            assert time.monotonic() < end, f"it goes on: {self.text[-2000:]}"
        _, status = os.waitpid(self._pid, 0)
        self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def _read(self, within: float) -> bool:
        """A piece of what is written; False at the end."""
        ready, _, _ = select.select([self._fd], [], [], within)
        if not ready:
            return True
        try:
            piece = os.read(self._fd, 65_536)
        except OSError:  # Linux says EIO where the other side is closed
            return False
        self.raw += piece.decode(errors="replace")
        return bool(piece)


def plain(text: str) -> str:
    """Without control sequences and bells."""
    return _CONTROL.sub("", text).replace("\r\n", "\n").replace("\x07", "")
