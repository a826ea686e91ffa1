"""`lbctl token rotate`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from lbctl.cli.client import AdminClient, NoAnswerError
from lbctl.cli.progress import LOOK_INTERVAL_S, passing
from lbctl.control.rotation import OVERLAP_S
from lbctl.core.text import printable
from lbctl.errors import DeadlineError, OperationError

if TYPE_CHECKING:
    from lbctl.cli.client import RotationRow
    from lbctl.cli.session import Session
    from lbctl.config import Config

_FINISHED_WITHIN_S = 60.0  # by whichever controller takes over


async def rotate(session: Session, settings: Config, *, as_json: bool) -> int:
    """Exchange all tokens; what does not take its new one is named."""
    screen = session.screen
    async with (
        session.running(settings) as (stack, found),
        AdminClient(found.admin.url) as client,
    ):
        token = await stack.admin_token()
        before = (await client.status())["tokens"]["changed_at"]
        with screen.steps("rotating the tokens") as steps:
            async with passing(steps, OVERLAP_S, f"at least {OVERLAP_S:g} s"):
                try:
                    rotation = await client.rotate_tokens(token)
                except NoAnswerError as error:
                    screen.tell(f"{error}; waiting for the controller that goes on with it")
                    await _finished(client, before)
                    rotation = None
    if as_json:
        screen.document(rotation or {"backends": None, "lagging": [], "spread_ms": None})
        return 0
    screen.say("admin token    changed: the one of before is refused")
    screen.say(f"publish tokens changed: {_taken(rotation)}")
    for laggard in rotation["lagging"] if rotation is not None else ():
        name, reason = printable(laggard["name"]), printable(laggard["reason"])
        screen.tell(f"{name} has not taken its token: {reason}")
    return 0


async def _finished(client: AdminClient, before: str | None) -> None:
    """Return when the tokens are others, and those of before are refused.

    Raises OperationError where the controller was gone before it had changed them.
    """
    end_s = time.monotonic() + _FINISHED_WITHIN_S
    while True:
        try:
            tokens = (await client.status())["tokens"]
        except NoAnswerError:
            pass  # for now
        else:
            if not tokens["rotating"]:
                if tokens["changed_at"] != before:
                    return
                raise OperationError(
                    "the admin token was not changed: the controller was gone too soon\n"
                    "run lbctl token rotate again"
                )
        if time.monotonic() > end_s:
            raise DeadlineError(
                f"the rotation is not finished after {_FINISHED_WITHIN_S:g} s: see lbctl status"
            )
        await asyncio.sleep(LOOK_INTERVAL_S)


def _taken(rotation: RotationRow | None) -> str:
    if rotation is None:
        return "the backends have taken theirs"
    count = rotation["backends"]
    taken = "1 backend has taken its" if count == 1 else f"{count} backends have taken theirs"
    return f"{taken} in {rotation['spread_ms'] / 1000:.2f} s"
