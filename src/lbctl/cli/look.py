"""`lbctl status`, `lbctl logs` and `lbctl down`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lbctl.cli import resolve
from lbctl.cli import watch as watching
from lbctl.cli.client import AdminClient
from lbctl.cli.tables import status_view, utc_now
from lbctl.core.text import printable
from lbctl.errors import EngineUnavailableError

if TYPE_CHECKING:
    from lbctl.cli.session import Session
    from lbctl.config import Config
    from lbctl.deploy import LogLine

_LOG_LINE_LIMIT = 16_384


async def status(session: Session, settings: Config, *, as_json: bool, watch: bool) -> int:
    """Print it once, or again and again."""
    screen = session.screen
    async with (
        session.running(settings) as (_, found),
        AdminClient(found.admin.url) as client,
    ):
        url = found.traffic.url
        if watch:
            return await watching.watch(client, url, screen, as_json=as_json)
        if as_json:
            # Not through rich, which would fold it: this is for programs.
            screen.out.file.write((await client.status_text()).rstrip("\n") + "\n")
            screen.out.file.flush()
        else:
            screen.show(status_view(await client.status(), url, utc_now()))
    return 0


async def logs(
    session: Session, settings: Config, *, follow: bool, tail: int, as_json: bool
) -> int:
    """Print the last lines of each process, and with `follow` the new ones."""
    form = _as_document if as_json else _as_text
    async with session.stacks(settings) as (facts, stacks):
        there = resolve.present(facts)
        if there is None:
            raise resolve.nothing_here(facts)
        async for line in stacks[there.runtime].logs(follow, tail):
            session.screen.out.file.write(form(line) + "\n")
            session.screen.out.file.flush()
    return 0


def _as_text(line: LogLine) -> str:
    return printable(str(line), _LOG_LINE_LIMIT)


def _as_document(line: LogLine) -> str:
    """One JSON object; what is none, such as nginx's own errors, is its `message`."""
    try:
        said = json.loads(line.text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        said = {"log": "text", "message": line.text}
    whose = {"whose": line.whose}
    return json.dumps(whose | said | whose)  # first, and whatever the line says of it


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


async def down(session: Session, settings: Config, *, as_json: bool) -> int:
    """End the project on every runtime that can be asked: what an interrupted start left
    behind is removed too, though it is no stack yet.
    """
    screen = session.screen
    async with session.stacks(settings) as (facts, stacks):
        if settings.runtime == "docker" and facts.engine_problem:
            raise EngineUnavailableError(facts.engine_problem)
        ended = False
        for runtime, stack in stacks.items():
            if settings.runtime not in ("auto", runtime):
                continue
            with screen.steps("ending") as steps:
                ended = await stack.down(steps) or ended
    if as_json:
        screen.document({"project": settings.project, "ended": ended})
        return 0
    unseen = "" if ended else resolve.unseen_containers(facts)
    said = "ended" if ended else "there was nothing to end"
    screen.say(f"project {settings.project!r}: {said}{' that could be seen' if unseen else ''}")
    if unseen:
        screen.tell(unseen)
    return 0
