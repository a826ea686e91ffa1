"""What a running stack holds of the machine, and what it says: read from outside, by /proc, the
admin port and the log file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cli import get

if TYPE_CHECKING:
    from tests.support.cli import Cli


@dataclass(frozen=True, slots=True)
class Held:
    """What one process holds."""

    rss_bytes: int
    descriptors: int
    threads: int


def held(pid: int) -> Held:
    """Raises OSError where the process is gone, or is not ours to look at."""
    process = Path(f"/proc/{pid}")
    lines = (process / "status").read_text(encoding="ascii").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return Held(
        rss_bytes=int(status["VmRSS"].split()[0]) * 1024,
        descriptors=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
    )


def processes(stack: Cli) -> dict[str, int]:
    """The lb's processes: pid by name."""
    return {row["name"]: row["pid"] for row in stack.status()["processes"]}


@dataclass(frozen=True, slots=True)
class Counted:
    """What the lb counts of itself."""

    connections: dict[str, int]  # open, of all workers, by side
    tasks: dict[str, int]  # of the event loops, by process


def counted(stack: Cli) -> Counted:
    text = get(f"{stack.admin_url}/metrics")
    return Counted(_gauge(text, "lbctl_connections"), _gauge(text, "lbctl_asyncio_tasks"))


def _gauge(text: str, name: str) -> dict[str, int]:
    """The values of a metric that has one label, by that."""
    found = re.findall(rf'^{name}{{\w+="([\w-]+)"}} (\S+)$', text, re.MULTILINE)
    return {label: int(float(value)) for label, value in found}


class LogWatch:
    """Reads the lb's log as it grows.

    Every line is one JSON object, whatever clients sent: another line is a crash that wrote its
    traceback, or a client that forged one. The lb's supervisor moves a log that has become large
    to `.1`; what was not read by then is read there.
    """

    def __init__(self, stack: Cli) -> None:
        self._path = stack.state / stack.project / "lb.log"
        self._read_bytes = 0
        self.lines = 0

    def complaints(self) -> list[str]:
        """What is wrong with the whole lines that were written since the last call."""
        if self._path.stat().st_size < self._read_bytes:
            found = self._judge(self._path.with_name(self._path.name + ".1"))
            self._read_bytes = 0
            return found + self._judge(self._path)
        return self._judge(self._path)

    def _judge(self, path: Path) -> list[str]:
        with path.open("rb") as file:
            file.seek(self._read_bytes)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        lines = whole.splitlines()
        self.lines += len(lines)
        return [f"log: {line[:400]!r}" for line in lines if not _is_sound(line)]


def _is_sound(line: bytes) -> bool:
    try:
        document = json.loads(line)
    except ValueError:
        return False
    # An exception that was logged stands under "error", with its traceback.
    return isinstance(document, dict) and "error" not in document
