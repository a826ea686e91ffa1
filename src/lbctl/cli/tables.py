"""The tables of `lbctl status`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lbctl.core.text import printable
from lbctl.model import HealingState, HistoryState, RolloutState, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from lbctl.cli.client import GenerationRow, Status

STYLES = {
    State.UP.value: "green",
    State.DOWN.value: "bold red",
    State.INVALID.value: "bold red",
    State.EJECTED.value: "bold red",
    State.DRAINING.value: "yellow",
}


def status_view(status: Status, url: str, now: datetime) -> RenderableType:
    """A headline, the processes, and one row a backend. `url` is where this machine reaches the
    traffic port: a container knows its own side of it only.
    """
    return Group(
        _text(headline(status, url), "bold"),
        *under_way(status),
        Text(),
        _processes(status, now),
        Text(),
        _backends(status, now),
    )


def headline(status: Status, url: str) -> str:
    """Which stack, where, and how many are in rotation."""
    wanted = f" of {status['replicas']}" if status["replicas"] is not None else ""
    leads = f", lb {status['leader']} leads" if status["leader"] else ""
    return (
        f"{status['project']} on {status['runtime']}, {url}: "
        f"{status['in_rotation']}{wanted} in rotation, generation {status['generation']}"
        f"{leads}"
    )


def under_way(status: Status) -> Iterable[Text]:
    """Lines under the headline: what is not seen, the rollout unless it went well, healing unless
    all is well.
    """
    rollout, healing = status["rollout"], status["healing"]
    if status["runtime_problem"]:
        text = f"who comes and goes is not seen: {status['runtime_problem']}"
        yield _text(text, "bold red")
    if rollout is not None and rollout["state"] != RolloutState.DONE.value:
        image = f" to {rollout['image']}" if rollout["image"] else ""
        back = rollout["state"] == RolloutState.ROLLED_BACK.value
        count = "" if back else f", {rollout['replaced']} of {rollout['total']} replaced"
        yield _text(
            f"rollout {rollout['revision']}{image}: {rollout['state']}{count}",
            "yellow" if rollout["state"] == RolloutState.RUNNING.value else "bold red",
        )
        yield from _message(rollout["message"])
    if healing["state"] != HealingState.IDLE.value:
        first, _, rest = healing["message"].partition("\n")
        gave_up = healing["state"] == HealingState.GAVE_UP.value
        text = f"healing: {healing['state']}" + (f", {first}" if first else "")
        yield _text(text, "bold red" if gave_up else "yellow")
        yield from _message(rest)
    kept = status.get("history")  # an lb of before has none
    if kept is not None and kept["state"] == HistoryState.FAILING.value:
        yield _text(f"history: not written, {kept['message']}", "bold red")


def history_view(lists: Iterable[GenerationRow]) -> Table:
    """One row a list, in order."""
    table = _table(("since", "l"), ("list", "r"), ("backends", "r"), ("what changed", "l"))
    for one in lists:
        table.add_row(
            _text(local_time(one["at"])),
            _text(one["generation"]),
            _text(len(one["members"])),
            _text(one["reason"]),
        )
    return table


def members_view(one: GenerationRow) -> RenderableType:
    """Who was on a list."""
    table = _table(("backend", "l"), ("ip", "l"), ("in rotation since", "l"))
    for member in one["members"]:
        table.add_row(
            _text(member["name"]), _text(member["ip"]), _text(local_time(member["since"]))
        )
    count = len(one["members"])
    headline = (
        f"list {one['generation']}, valid since {local_time(one['at'])}: "
        f"{count} {'backend' if count == 1 else 'backends'}"
    )
    return Group(_text(headline, "bold"), Text(), table)


def local_time(text: str) -> str:
    """An ISO 8601 time on this machine's clock, with milliseconds: 2026-11-27 18:24:30.123."""
    try:
        moment = datetime.fromisoformat(text).astimezone()
    except (ValueError, TypeError, OverflowError):
        return "?"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"


def _message(text: str) -> Iterable[Text]:
    return (_text(f"  {line}") for line in text.splitlines())


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
            _text(backend["state"], STYLES.get(backend["state"], "cyan")),
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
