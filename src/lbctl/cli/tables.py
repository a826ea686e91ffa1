"""The tables of `lbctl status`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lbctl.core.text import printable
from lbctl.model import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from lbctl.cli.client import Status

_STYLES = {
    State.UP.value: "green",
    State.DOWN.value: "bold red",
    State.INVALID.value: "bold red",
    State.DRAINING.value: "yellow",
}


def status_view(status: Status, url: str, now: datetime) -> RenderableType:
    """A headline, the processes, and one row a backend. `url` is where this machine reaches the
    traffic port: a container knows its own side of it only.
    """
    wanted = f" of {status['replicas']}" if status["replicas"] is not None else ""
    headline = (
        f"{status['project']} on {status['runtime']}, {url}: "
        f"{status['in_rotation']}{wanted} in rotation, generation {status['generation']}"
    )
    return Group(
        _text(headline, "bold"), Text(), _processes(status, now), Text(), _backends(status, now)
    )


def _processes(status: Status, now: datetime) -> Table:
    table = _table(("process", "l"), ("role", "l"), ("pid", "r"), ("up", "r"), ("restarts", "r"))
    for process in status["processes"]:
        table.add_row(
            _text(process["name"]),
            _text(process["role"]),
            _text(process["pid"]),
            _text(age(process["started_at"], now)),
            _text(process["restarts"], "yellow" if process["restarts"] else ""),
        )
    return table


def _backends(status: Status, now: datetime) -> Table:
    table = _table(
        ("backend", "l"), ("ip", "l"), ("state", "l"), ("for", "r"), ("in flight", "r"),
        ("req/s", "r"), ("p99 ms", "r"), ("list", "r"), ("why", "l"),
    )  # fmt: skip
    for backend in status["backends"]:
        p99_ms = backend["p99_ms"]
        published = backend["published_generation"]
        table.add_row(
            _text(backend["name"]),
            _text(backend["ip"]),
            _text(backend["state"], _STYLES.get(backend["state"], "cyan")),
            _text(age(backend["since"], now)),
            _text(backend["in_flight"]),
            _text(f"{backend['requests_per_second']:.1f}"),
            _text("-" if p99_ms is None else f"{p99_ms:.1f}"),
            _text(published, "" if published == status["generation"] else "yellow"),
            _text(backend["reason"]),
        )
    return table


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, side in columns:
        table.add_column(
            name,
            justify="right" if side == "r" else "left",
            overflow="fold",
            no_wrap=name in ("ip", "state"),
        )
    return table


def _text(value: object, style: str = "") -> Text:
    return Text(printable(str(value)), style=style)


def age(since: str, now: datetime) -> str:
    """How long ago an ISO 8601 time was, in its largest unit: 12s, 3m, 5h, 2d."""
    try:
        seconds = max((now - datetime.fromisoformat(since)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return "?"
    units: Iterable[tuple[float, str]] = ((86_400, "d"), (3_600, "h"), (60, "m"))
    for size, unit in units:
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"


def utc_now() -> datetime:
    """The time the ages count from."""
    return datetime.now(UTC)
