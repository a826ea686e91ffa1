"""`lbctl explain BACKEND`: why it is in or out of rotation, and what would change that."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.text import Text

from lbctl.cli.client import AdminClient
from lbctl.cli.fleet import pick
from lbctl.cli.tables import STYLES, age, utc_now
from lbctl.core.explain import Rules, explain
from lbctl.core.text import printable
from lbctl.errors import UnsupportedError
from lbctl.model import BackendStatus, Cause, EjectionStatus, Failure, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.cli.client import BackendRow, Status
    from lbctl.cli.screen import Screen
    from lbctl.cli.session import Session
    from lbctl.config import Config
    from lbctl.core.explain import Explanation

_SENTENCE_LIMIT = 500
_LABEL_WIDTH = 9
_LEAST_WIDTH = 40


async def run(session: Session, settings: Config, name: str, *, as_json: bool) -> int:
    """Print it. Raises OperationError where no backend is called so."""
    async with (
        session.running(settings) as (_, found),
        AdminClient(found.admin.url) as client,
    ):
        status = await client.status()
    row = pick(name, status["backends"])
    now = utc_now()
    said = explain(backend_of(row), rules_of(status), now)
    if as_json:
        session.screen.document(
            {
                "backend": row,
                "in_rotation": row["state"] == State.UP.value,
                "what": said.what,
                "why": said.why,
                "changes": list(said.changes),
            }
        )
    else:
        _show(session.screen, row, said, now)
    return 0


def rules_of(status: Status) -> Rules:
    """What decides there: settings of an lb that knows fewer of them keep their defaults."""
    known = {one.name for one in fields(Rules)}
    return Rules(
        project=status["project"],
        runtime=status["runtime"],
        **{name: value for name, value in status["settings"].items() if name in known - _OWN},
    )


_OWN = {"project", "runtime"}


def backend_of(row: BackendRow) -> BackendStatus:
    """A row of the status, read. Raises UnsupportedError for that of another version."""
    try:
        return BackendStatus(
            id=row["id"],
            name=printable(row["name"]),
            ip=row["ip"],
            port=row["port"],
            weight=row["weight"],
            state=State(row["state"]),
            reason=printable(row["reason"]),
            since=datetime.fromisoformat(row["since"]),
            published_generation=row["published_generation"],
            last_check=printable(row["last_check"]),
            cause=Cause(row["cause"]),
            checks_in_a_row=row["checks"]["in_a_row"],
            checks_passed=row["checks"]["passed"],
            publish=row["publish"],
            revision=row["revision"],
            ejection=_ejection(row["ejection"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnsupportedError(
            "the lb that runs does not say why its backends are where they are\n"
            "lbctl upgrade brings it to this version"
        ) from error


def _ejection(row: Mapping[str, Any] | None) -> EjectionStatus | None:
    if row is None:
        return None
    return EjectionStatus(
        failure=Failure(row["failure"]),
        ends_at=datetime.fromisoformat(row["ends_at"]),
        lasts_s=row["lasts_s"],
        times=row["times"],
        passes=row["passes"],
    )


def _show(screen: Screen, row: BackendRow, said: Explanation, now: datetime) -> None:
    head = Text(printable(row["name"]), style="bold")
    head.append(f" ({row['ip'] or 'no address'}) is ")
    head.append(row["state"], style=STYLES.get(row["state"], "cyan"))
    head.append(f" for {age(row['since'], now)}")
    screen.out.print(head, soft_wrap=True)
    width = max(_LEAST_WIDTH, screen.out.width) - _LABEL_WIDTH
    for label, lines in (
        ("what", (said.what,)),
        ("why", (said.why,)),
        ("changes", said.changes),
        ("seen", (_seen(row),)),
    ):
        folded = [part for line in lines for part in wrap(printable(line, _SENTENCE_LIMIT), width)]
        for number, part in enumerate(folded):
            text = Text(f"{'' if number else label:{_LABEL_WIDTH}}", style="dim")
            screen.out.print(text.append(part, style="not dim"), soft_wrap=True)


def _seen(row: BackendRow) -> str:
    check = row["last_check"] or "none yet"
    p99_ms = row["p99_ms"]
    slow = "" if p99_ms is None else f", p99 {p99_ms:.1f} ms"
    held = f"list {row['published_generation']}" if row["published_generation"] else "no list"
    return (
        f"last check: {check}; {row['in_flight']} in flight, "
        f"{row['requests_per_second']:.1f} req/s{slow}; {held}"
    )
