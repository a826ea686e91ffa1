"""`lbctl drain`, `lbctl undrain` and `lbctl rollout`."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import time
from functools import partial
from typing import TYPE_CHECKING, Literal

from lbctl.cli.client import AdminClient
from lbctl.cli.progress import LOOK_INTERVAL_S, watched
from lbctl.core.text import printable
from lbctl.errors import OperationError, UsageError
from lbctl.model import RolloutState, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.cli.client import BackendRow, RolloutRow, Status
    from lbctl.cli.screen import Screen, Steps
    from lbctl.cli.session import Session
    from lbctl.config import Config

_SILENCE_S = 30.0  # of the admin port, while a controller takes over
_MARGIN_S = 10.0  # the lb gives up first, and says why
_SUGGESTED, _ALIKE = 3, 0.6  # names at most, each that similar
_NAMED = 8  # where none is
_UNDER_WAY = (RolloutState.RUNNING.value, RolloutState.ROLLING_BACK.value)


async def by_hand(
    session: Session,
    settings: Config,
    change: Literal["drain", "undrain"],
    name: str,
    *,
    as_json: bool,
) -> int:
    """Take a backend out, or let it in again; exit status 1 where it did not come in."""
    async with (
        session.running(settings) as (stack, found),
        AdminClient(found.admin.url) as client,
    ):
        token = await stack.admin_token()
        backend = pick(name, (await client.status())["backends"])
        patience_s = settings.control.drain_timeout_s + _MARGIN_S
        with session.screen.steps(f"{change} {backend['name']}") as steps:
            show = partial(_show, backend["id"], backend["in_flight"], steps)
            async with watched(client, show) if change == "drain" else contextlib.nullcontext():
                row = await client.by_hand(change, backend["id"], token, patience_s)
    if as_json:
        session.screen.document({"backend": row})
    if change == "undrain" and row["state"] != State.UP.value:
        raise OperationError(f"{row['name']} may come in, but is {row['state']}: {row['reason']}")
    if as_json:
        return 0
    if change == "drain":
        left = row["in_flight"]
        flight = f" (requests still in flight: {left})" if left else ""
        session.screen.say(f"{row['name']} is drained, and on no list{flight}")
        return 0
    session.screen.say(f"{row['name']} is in rotation")
    return 0


def _show(backend_id: str, at_first: int, steps: Steps, status: Status) -> None:
    """What a backend that leaves still has to answer, of what it had."""
    for row in status["backends"]:
        left = row["in_flight"]
        if row["id"] == backend_id and row["state"] == State.DRAINING.value and left:
            most = max(at_first, left)
            steps.part(most - left, most, f"requests in flight: {left}")


def pick(name: str, backends: Sequence[BackendRow]) -> BackendRow:
    """The backend of that name, that IP, or whose id begins so.

    Raises OperationError where there is none, and UsageError where there are several.
    """
    exact = [row for row in backends if name and name in (row["name"], row["ip"], row["id"])]
    found = exact or [row for row in backends if name and row["id"].startswith(name)]
    shown = printable(name, 64)
    if not found:
        raise OperationError(f"no backend is called {shown!r}; {_near(name, backends)}")
    if len(found) > 1:
        names = ", ".join(f"{printable(row['name'])} ({row['id'][:12]})" for row in found)
        raise UsageError(f"{shown!r} may be {names}: say more of it")
    return found[0]


def _near(name: str, backends: Sequence[BackendRow]) -> str:
    """What may be meant, or else who there is."""
    names = [row["name"] for row in backends] + [row["ip"] for row in backends if row["ip"]]
    near = sorted(difflib.get_close_matches(name, names, _SUGGESTED, _ALIKE), key=names.index)
    if near:
        return f"did you mean {' or '.join(printable(one) for one in near)}?"
    known = [printable(row["name"]) for row in backends[:_NAMED]] or ["none"]
    more = len(backends) - _NAMED
    return f"there are: {', '.join(known)}" + (f" and {more} more" if more > 0 else "")


async def roll_out(
    session: Session, settings: Config, image: str, batch: int, *, as_json: bool
) -> int:
    """Replace all backends, and follow that to its end; one that is under way is followed."""
    screen = session.screen
    async with (
        session.running(settings) as (stack, found),
        AdminClient(found.admin.url) as client,
    ):
        if image:
            with screen.steps("image") as steps:
                await stack.fetch(image, steps)
        began_s = time.monotonic()
        rollout = (await client.status())["rollout"]
        token = await stack.admin_token()
        try:
            if rollout is None or rollout["state"] not in _UNDER_WAY or rollout["image"] != image:
                rollout = await client.roll_out(image, batch, token)
            else:
                screen.tell("such a rollout is under way: following it")
            rollout = await _end_of(rollout, client, screen)
        except asyncio.CancelledError:
            screen.tell(
                "the rollout goes on without this command; lbctl status shows how far it is"
            )
            raise
        took_s = time.monotonic() - began_s
    if as_json:
        screen.document({"rollout": rollout, "took_s": round(took_s, 3)})
    if rollout["state"] != RolloutState.DONE.value:
        raise OperationError(f"the rollout is {rollout['state']}: {rollout['message']}")
    if as_json:
        return 0
    total = rollout["total"]
    screen.say(f"{total} {'backend' if total == 1 else 'backends'} replaced in {took_s:.1f} s")
    return 0


async def _end_of(rollout: RolloutRow, client: AdminClient, screen: Screen) -> RolloutRow:
    """The rollout when it has ended. A controller that is being replaced is waited for."""
    heard_s = time.monotonic()
    with screen.steps("backends replaced") as steps:
        while rollout["state"] in _UNDER_WAY:
            going_back = rollout["state"] == RolloutState.ROLLING_BACK.value
            note = "going back: " if going_back else ""
            done, total = rollout["replaced"], rollout["total"]
            steps.part(done, total, f"{note}{done} of {total}")
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                found = (await client.status())["rollout"]
            except OperationError:
                if time.monotonic() - heard_s > _SILENCE_S:
                    raise
                continue
            heard_s = time.monotonic()
            if found is None or found["revision"] != rollout["revision"]:
                raise OperationError("the lb knows nothing of this rollout any more")
            rollout = found
    return rollout
