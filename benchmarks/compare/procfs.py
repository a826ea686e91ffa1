"""What the kernel says of processes and of the machine (proc(5)). Parsing is apart from reading."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """One line of /proc/PID/stat. `ticks`: user and system time of all its threads, those that
    have ended included, in 1/SC_CLK_TCK s.
    """

    pid: int
    name: str
    parent: int
    ticks: int


def parse_stat(line: str) -> Stat:
    """Raises ValueError. The name is the file's, in parentheses, and may contain any of them."""
    before, _, after = line.rpartition(")")
    pid, _, name = before.partition(" (")
    fields = after.split()  # the first of them is the third of the line
    if len(fields) < 13:
        raise ValueError(f"not a stat line: {line[:80]!r}")
    return Stat(int(pid), name, int(fields[1]), int(fields[11]) + int(fields[12]))


def tree(stats: Iterable[Stat], root: int, skip: Collection[str] = ()) -> dict[int, Stat]:
    """`root` and all that descend from it, by pid, except processes (and what descends from
    them) whose name is in `skip`.
    """
    children: dict[int, list[Stat]] = {}
    found: dict[int, Stat] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat)
        if stat.pid == root:
            found[root] = stat
    waiting = list(found)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child.name not in skip and child.pid not in found:
                found[child.pid] = child
                waiting.append(child.pid)
    return found


def read_tree(root: int, skip: Collection[str] = ()) -> dict[int, Stat]:
    """Empty if there is no such process any more."""
    stats: list[Stat] = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                stats.append(parse_stat((entry / "stat").read_text(encoding="utf-8")))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
    return tree(stats, root, skip)


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds of a process tree, and those of the busiest process in it."""

    total_s: float
    busiest_s: float


def spent(before: Mapping[int, Stat], after: Mapping[int, Stat]) -> Spent:
    """What was spent between two looks at a tree.

    Raises ValueError if a process of it has ended: what it spent cannot be known.
    """
    gone = [stat.name for pid, stat in before.items() if pid not in after]
    if gone or not after:
        raise ValueError(f"ended: {', '.join(gone) or 'all of it'}")
    each = [
        (stat.ticks - (before[pid].ticks if pid in before else 0)) / _TICKS_PER_S
        for pid, stat in after.items()
    ]
    return Spent(sum(each), max(each))


def resident_bytes(status: str) -> int:
    """VmRSS of a /proc/PID/status. Raises ValueError."""
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no VmRSS in it")


def read_resident_bytes(pid: int) -> int:
    """Raises OSError if there is no such process."""
    return resident_bytes((_PROC / str(pid) / "status").read_text(encoding="utf-8"))


def connections_opened(snmp: str) -> int:
    """ActiveOpens of /proc/net/snmp: connections this machine has opened. Raises ValueError."""
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("ActiveOpens")])


def read_connections_opened() -> int:
    return connections_opened((_PROC / "net" / "snmp").read_text(encoding="ascii"))


def cpu_model(cpuinfo: str) -> str:
    """As /proc/cpuinfo calls it; "unknown" on machines that do not say."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


@dataclass(frozen=True, slots=True)
class Ticks:
    """Of /proc/stat, all CPUs together: all that passed, and what a hypervisor gave to others."""

    total: int
    stolen: int

    def stolen_since(self, before: Ticks) -> float:
        """The part that was stolen since, 0 to 1."""
        return (self.stolen - before.stolen) / max(1, self.total - before.total)


def machine_ticks(stat: str) -> Ticks:
    """Raises ValueError."""
    fields = [int(field) for field in stat.partition("\n")[0].split()[1:9]]
    if len(fields) < 8:
        raise ValueError("no steal time in it")
    return Ticks(sum(fields), fields[7])


def read_machine_ticks() -> Ticks:
    return machine_ticks((_PROC / "stat").read_text(encoding="ascii"))


def read_cpu_model() -> str:
    return cpu_model((_PROC / "cpuinfo").read_text(encoding="utf-8"))
