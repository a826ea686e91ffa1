"""`lbctl status --watch` on a terminal: the whole stack on as many lines as there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lbctl.cli.meter import sparkline
from lbctl.cli.tables import STYLES, age, headline, under_way
from lbctl.core.text import printable
from lbctl.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from rich.console import RenderableType

    from lbctl.cli.client import BackendRow, Status
    from lbctl.cli.meter import Pulse

_ORDER: Final = {
    state.value: place
    for place, state in enumerate(
        (
            State.DOWN, State.EJECTED, State.INVALID, State.DRAINING, State.PROBING,
            State.ENROLLING, State.JOINING, State.UP,
        )
    )
}  # fmt: skip
_LEAST_CURVE: Final = 8
_WHY: Final = "why"
_LEAST_WHY: Final = 16
_GOOD_WHY: Final = 40
_GAP: Final = 2  # between columns
_NEWS_LINES: Final = 4


@dataclass(frozen=True, slots=True)
class Size:
    """Of the terminal, in characters; `plain` if it has no Unicode."""

    width: int
    height: int
    plain: bool = False

    @property
    def overflow(self) -> Literal["crop", "ellipsis"]:
        """What becomes of a line that is too long."""
        return "crop" if self.plain else "ellipsis"


def panel(
    status: Status,
    pulse: Pulse,
    history: Sequence[float],
    url: str,
    now: datetime,
    size: Size,
    notes: Sequence[str] = (),
) -> RenderableType:
    """Not a line more than fits: backends that do not are counted in the last one. `notes` are
    about the watching itself.
    """
    lines = [
        _cut(Text(printable(headline(status, url)), style="bold"), size),
        *(_cut(Text(printable(note), style="bold yellow"), size) for note in notes),
        *(_cut(line, size) for line in list(under_way(status))[:_NEWS_LINES]),
        _cut(pulse_line(pulse, history, size.width, plain=size.plain), size),
        _cut(_processes(status), size),
        Text(),
    ]
    rows = sorted(status["backends"], key=lambda row: _ORDER.get(row["state"], -1))
    room = max(0, size.height - len(lines) - 1)  # the headings
    if len(rows) > room:
        fitting = max(0, room - 1)
        rest = _cut(Text(_more(rows[fitting:]), style="dim"), size)
        return Group(*lines, _backends(rows[:fitting], status, now, size), rest)
    return Group(*lines, _backends(rows, status, now, size))


def pulse_line(pulse: Pulse, history: Sequence[float], width: int, *, plain: bool = False) -> Text:
    """What goes through: requests, failures, latency, and the curve of the requests."""
    line = Text(f"{pulse.requests_per_second:.1f} req/s", style="bold")
    ratio = pulse.failed_ratio
    if ratio is not None:
        percent = f"{ratio * 100:.2f}" if ratio >= 0.0001 or not ratio else "<0.01"
        line.append(f"  {percent} % failed", style="bold red" if ratio else "not bold green")
    for name, seconds in (("p50", pulse.p50_s), ("p99", pulse.p99_s)):
        if seconds is not None:
            line.append(f"  {name} {seconds * 1000:.1f} ms", style="not bold")
    left = width - len(line) - 2
    if left >= _LEAST_CURVE:
        curve = sparkline(history, left, plain=plain)
        line.append(f"  {curve}", style="not bold cyan")
    return line


def _processes(status: Status) -> Text:
    """All of them on one line; what was restarted is what one looks for."""
    counts = Counter(process["role"] for process in status["processes"])
    parts = [f"{count} {role}{'s' if count > 1 else ''}" for role, count in counts.items()]
    restarts = Counter[str]()
    for process in status["processes"]:
        restarts[process["name"]] += process["restarts"]
    line = Text(printable(", ".join(parts) or "no processes"), style="dim")
    again = [f"{name} {count}x" for name, count in restarts.items() if count]
    if again:
        line.append(printable(f"; restarted: {', '.join(again)}"), style="not dim yellow")
    return line


@dataclass(frozen=True, slots=True)
class _Column:
    """One column; those of the highest `rank` are the first to go where it is narrow."""

    title: str
    rank: int
    cell: Callable[[BackendRow], str]
    right: bool = False
    style: Callable[[BackendRow], str] = lambda _row: ""


def _columns(generation: int, now: datetime) -> tuple[_Column, ...]:
    return (
        _Column("backend", 0, lambda row: row["name"]),
        _Column("ip", 2, lambda row: row["ip"] or "-"),
        _Column("state", 0, lambda row: row["state"], style=_state_style),
        _Column("for", 3, lambda row: age(row["since"], now), right=True),
        _Column("in flight", 6, lambda row: str(row["in_flight"]), right=True),
        _Column("req/s", 4, lambda row: f"{row['requests_per_second']:.1f}", right=True),
        _Column("p99 ms", 5, _p99, right=True),
        _Column(
            "list", 7, lambda row: str(row["published_generation"]), right=True,
            style=lambda row: "" if row["published_generation"] == generation else "yellow",
        ),
        _Column(_WHY, 1, lambda row: row["reason"]),
    )  # fmt: skip


def _state_style(row: BackendRow) -> str:
    return STYLES.get(row["state"], "cyan")


def _p99(row: BackendRow) -> str:
    return "-" if row["p99_ms"] is None else f"{row['p99_ms']:.1f}"


def _backends(rows: Sequence[BackendRow], status: Status, now: datetime, size: Size) -> Table:
    columns, why_width = _fitting(_columns(status["generation"], now), rows, size.width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(
            column.title, justify="right" if column.right else "left", no_wrap=True,
            overflow=size.overflow,
        )  # fmt: skip
    for row in rows:
        cells = [Text(printable(each.cell(row)), style=each.style(row)) for each in columns]
        if columns[-1].title == _WHY:
            # Of all columns this one gives way.
            cells[-1].truncate(why_width, overflow=size.overflow)
        table.add_row(*cells)
    return table


def _fitting(
    columns: Iterable[_Column], rows: Sequence[BackendRow], width: int
) -> tuple[Sequence[_Column], int]:
    """Those for which there is room, and how much is left for the reason, which may be cut, but
    not below a few words.
    """

    def wide(column: _Column) -> int:
        longest = max((len(printable(column.cell(row))) for row in rows), default=0)
        if column.title == _WHY:
            # Worth more than the columns behind it, but not more than there is.
            longest = min(longest, _GOOD_WHY, max(_LEAST_WHY, left - _GAP))
        return max(len(column.title), longest) + _GAP

    left, kept, why_width = width + _GAP, set(), 0
    for column in sorted(columns, key=lambda each: each.rank):
        need = wide(column)
        if need > left and column.rank:
            break
        left -= need
        kept.add(column.title)
        if column.title == _WHY:
            why_width = need - _GAP
    return [column for column in columns if column.title in kept], why_width + max(0, left)


def _more(rows: Sequence[BackendRow]) -> str:
    """Those for which there is no line: how many, and in which states."""
    counts = Counter(row["state"] for row in rows)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"and {len(rows)} more: {printable(states)}"


def _cut(line: Text, size: Size) -> Text:
    line.truncate(size.width, overflow=size.overflow)
    line.no_wrap = True
    return line
