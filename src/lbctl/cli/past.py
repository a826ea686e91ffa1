"""`lbctl history` and `lbctl events`."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from rich.text import Text

from lbctl.cli.client import AdminClient, NoAnswerError
from lbctl.cli.tables import history_view, local_time, members_view
from lbctl.core.history import Kind
from lbctl.core.text import printable
from lbctl.core.when import moment
from lbctl.errors import OperationError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from lbctl.cli.client import EventRow, GenerationRow
    from lbctl.cli.screen import Screen
    from lbctl.cli.session import Session
    from lbctl.config import Config

R = TypeVar("R", "GenerationRow", "EventRow")

_SHOWN = 50  # where nobody says since when
_PAGE = 1_000
_MOST = 10_000
_RECONNECT_S = 0.2
_CONNECTED_S = 6.0
_SILENCE_S = 30.0  # of the admin port, while a controller takes over
_TEXT_LIMIT = 500
_STYLES = {
    Kind.UP.value: "green",
    Kind.JOIN.value: "green",
    Kind.DOWN.value: "bold red",
    Kind.EJECT.value: "bold red",
    Kind.INVALID.value: "bold red",
    Kind.HISTORY.value: "bold red",
    Kind.LEAVE.value: "yellow",
    Kind.DRAIN.value: "yellow",
    Kind.GENERATION.value: "bold",
}


async def history(
    session: Session,
    settings: Config,
    *,
    since: str | None,
    until: str | None,
    at: str | None,
    as_json: bool,
) -> int:
    """The lists of a span of time, or with `at` who was in rotation then."""
    if at is not None and (since is not None or until is not None):
        raise UsageError("--at is one moment: leave --since and --until out")
    span = {"since": _iso(since, "--since"), "until": _iso(until, "--until")}
    moment_at = _iso(at, "--at")
    async with session.running(settings) as (_, found), AdminClient(found.admin.url) as client:
        if moment_at is None:
            lists = await _first(_pages(client.generations, span))
        else:
            lists = await client.generations({"at": moment_at})
    screen = session.screen
    if len(lists) >= _MOST:
        screen.tell(f"there may be more: go on with --since {lists[-1]['at']}")
    if as_json:
        _write(screen, json.dumps({"generations": lists}))
    elif moment_at is None:
        _show_lists(screen, lists)
    elif lists:
        screen.show(members_view(lists[0]))
    if moment_at is not None and not lists:
        raise OperationError(f"no list is known of {local_time(moment_at)}: see lbctl history")
    return 0


def _show_lists(screen: Screen, lists: list[GenerationRow]) -> None:
    if lists:
        screen.show(history_view(lists))
    else:
        screen.tell("no list changed then")


async def events(
    session: Session, settings: Config, *, since: str | None, follow: bool, as_json: bool
) -> int:
    """What happened, one line each; with `follow` also what happens, until Ctrl-C."""
    span = {"since": _iso(since, "--since")}

    def show(event: EventRow) -> None:
        if as_json:
            _write(session.screen, json.dumps(event))
        else:
            session.screen.out.print(_line(event), soft_wrap=True)

    async with session.running(settings) as (_, found), AdminClient(found.admin.url) as client:
        last: EventRow | None = None
        async for page in _pages(client.events, span):
            for last in page:
                show(last)
        if follow:
            newest = [last] if last is not None else await client.events({"limit": "1"})
            async for event in _from_now_on(client, newest[-1]["seq"] if newest else 0):
                show(event)
    return 0


async def _from_now_on(client: AdminClient, seq: int) -> AsyncIterator[EventRow]:
    """What comes behind this number; a controller that is being replaced is waited for."""
    silent_since_s = None
    while True:
        began_s = time.monotonic()
        try:
            async for event in client.follow(seq):
                seq = event["seq"]
                yield event
            silent_since_s = None  # it ended well
        except NoAnswerError:
            # What took so long was a stream, not an attempt to connect.
            if silent_since_s is None or time.monotonic() - began_s > _CONNECTED_S:
                silent_since_s = time.monotonic()
            if time.monotonic() - silent_since_s > _SILENCE_S:
                raise
        await asyncio.sleep(_RECONNECT_S)


async def _pages(
    ask: Callable[[dict[str, str]], Awaitable[list[R]]], span: dict[str, str | None]
) -> AsyncIterator[list[R]]:
    """All of a span with a beginning, page by page; else the last few."""
    query = {name: value for name, value in span.items() if value is not None}
    if "since" not in query:
        yield await ask(query | {"limit": str(_SHOWN)})
        return
    while page := await ask(query | {"limit": str(_PAGE)}):
        yield page
        query["after"] = str(page[-1]["seq"])


async def _first(pages: AsyncIterator[list[R]]) -> list[R]:
    """As many as fit one table."""
    rows: list[R] = []
    async for page in pages:
        rows += page
        if len(rows) >= _MOST:
            break
    return rows


def _iso(text: str | None, option: str) -> str | None:
    """What a person wrote, for the admin port. Raises UsageError."""
    if text is None:
        return None
    try:
        found = moment(text, datetime.now(UTC).astimezone(), lambda naive: naive.astimezone())
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None
    return found.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _line(event: EventRow) -> Text:
    kind = str(event["kind"])
    subject = printable(str(event["subject"]))
    text = printable(str(event["text"]), _TEXT_LIMIT)
    said = "  ".join(part for part in (subject, text) if part)
    line = Text(f"{local_time(event['at'])}  ", style="")
    line.append(f"{printable(kind, 20):<10}  ", _STYLES.get(kind, ""))
    line.append(said)
    return line


def _write(screen: Screen, line: str) -> None:
    """Not through rich, which would fold it: this is for programs."""
    screen.out.file.write(line + "\n")
    screen.out.file.flush()
