"""CPU time that processes have used, out of what the kernel and the engine say. Pure."""

from __future__ import annotations

from typing import Any


def ticks_of(stat: str) -> int:
    """User and system time of a process, all of its threads, in clock ticks; `stat` is the line
    of /proc/PID/stat (proc(5)). Raises ValueError.

    The second field is the program's name, in parentheses, and may contain any of them.
    """
    _, closed, after = stat.rpartition(") ")
    fields = after.split()  # the first of them is the third of the line
    if not closed or len(fields) < 13:
        raise ValueError(f"not a line of /proc/PID/stat: {stat[:80]!r}")
    return int(fields[11]) + int(fields[12])


def container_ns(stats: Any) -> int:
    """User and system time of a container, in nanoseconds; `stats` is the engine's document.
    Raises ValueError.
    """
    try:
        used = stats["cpu_stats"]["cpu_usage"]["total_usage"]
    except (KeyError, TypeError):
        used = None
    if not isinstance(used, int) or isinstance(used, bool) or used < 0:
        raise ValueError("the engine did not say how much CPU the container has used")
    return used


def spent(before: dict[str, float], after: dict[str, float]) -> float | None:
    """Seconds that were used between two looks, by process; None where the processes are not the
    same ones: what those that ended had used is known to nobody.
    """
    if not before or before.keys() != after.keys():
        return None
    used = sum(after.values()) - sum(before.values())
    return used if used >= 0 else None
