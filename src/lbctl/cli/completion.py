"""Completion in the shell: the script that `lbctl completion SHELL` prints, and the names of the
backends that it asks for while somebody types.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

from lbctl.cli.session import Session
from lbctl.model import State

if TYPE_CHECKING:
    import click
    from click.shell_completion import ShellComplete

    from lbctl.cli.client import BackendRow
    from lbctl.config import Config

_WITHIN_S: Final = 1.0
"""Somebody has pressed a key, and waits."""


class _FishComplete(FishComplete):
    """With descriptions that have commas in them."""

    source_template = FishComplete.source_template.replace('split ","', 'split --max 1 ","')


_SHELLS: Final[dict[str, type[ShellComplete]]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": _FishComplete,
}


def script(command: click.Command, shell: str) -> str:
    """What that shell is to read; it calls the program `lbctl` for every completion."""
    made = _SHELLS[shell](command, {}, "lbctl", "_LBCTL_COMPLETE")
    # Not made.source(), which runs the bash of this machine to find out how old it is: the script
    # may be for another one.
    return made.source_template % made.source_vars()


def backends(context: click.Context, begun: str) -> list[CompletionItem]:
    """Those of the running stack that the command may be meant for and whose name, or address,
    begins so; none where that cannot be found out in time.
    """
    try:
        session = context.find_object(Session) or Session()
        settings = session.configure(**_given(context))
        rows = asyncio.run(_rows(session, settings))
    except Exception:  # noqa: BLE001 - whoever types must not see an error in the middle of a word
        return []
    fitting = [row for row in rows if _fits(context.info_name, row["state"])]
    by_name = [CompletionItem(row["name"], help=row["state"]) for row in fitting]
    by_address = [CompletionItem(row["ip"], help=row["name"]) for row in fitting]
    # An empty word is no beginning of an address that anybody has in mind.
    found = [one for one in by_name if one.value.startswith(begun)]
    return found or [one for one in by_address if begun and one.value.startswith(begun)]


def _given(context: click.Context) -> dict[str, Any]:
    """Which stack is meant, said before the command or behind it."""
    given: dict[str, Any] = {}
    at: click.Context | None = context
    while at is not None:
        for name in ("project", "runtime"):
            given[name] = given.get(name) or at.params.get(name)
        at = at.parent
    return given


async def _rows(session: Session, settings: Config) -> list[BackendRow]:
    from lbctl.cli.client import AdminClient

    async with (
        asyncio.timeout(_WITHIN_S),
        session.running(settings) as (_, found),
        AdminClient(found.admin.url) as client,
    ):
        return (await client.status())["backends"]


def _fits(command: str | None, state: str) -> bool:
    """Whether the command can do something with a backend in that state."""
    if command == "undrain":
        return state == State.DRAINING.value
    return command != "drain" or state != State.DRAINING.value
