"""Sees to it that pod and lbs run.

It follows the engine's events, and looks at everything after each of them and now and then in
any case; what it then does is decided in core/keeping.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lbctl.control.tasks import first_of
from lbctl.core.backoff import Backoff
from lbctl.core.keeping import Piece, Remedy, move_of, remedies
from lbctl.errors import LbctlError
from lbctl.model import LABEL_PROJECT, LABEL_ROLE
from lbctl.runtime.containers import Names, listed_name
from lbctl.runtime.engine import Engine
from lbctl.runtime.transport import EngineRefusedError

if TYPE_CHECKING:
    from lbctl.runtime.containers import Json

_log = logging.getLogger("lbctl.guard.keeper")

_LOOK_INTERVAL_S = 5.0
_SETTLE_S = 0.2
_GRACE_S = 2.0
_RECONNECT_MIN_S, _RECONNECT_MAX_S = 0.1, 5.0
_NEVER = "0001-01-01"


async def keep(project: str) -> None:
    """For ever, over whatever becomes of the engine."""
    backoff = Backoff(_RECONNECT_MIN_S, _RECONNECT_MAX_S)
    while True:
        try:
            engine = await Engine.connect()
            try:
                _log.info("guarding %s", project)
                backoff.reset()
                await Keeper(engine, Names(project)).run()
            finally:
                await engine.close()
        except LbctlError as error:
            _log.warning("%s; trying again", str(error).partition("\n")[0])
        await asyncio.sleep(backoff.next_s(random.random()))  # noqa: S311 - no secret


class Keeper:
    """One connection to an engine."""

    def __init__(self, engine: Engine, names: Names) -> None:
        self._engine = engine
        self._names = names
        self._stopped: set[str] = set()
        self._moved: set[tuple[str, str]] = set()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Until the connection breaks; raises LbctlError, or returns where the engine ends it."""
        await first_of(self._keep_looking(), self._follow())

    async def _follow(self) -> None:
        filters = {"type": ["container"], "event": ["start", "die", "stop", "destroy"]}
        async with self._engine.events(filters, since=f"{time.time():.9f}") as events:
            self._news.set()
            async for event in events:
                self._heard(event)

    def _heard(self, event: Json) -> None:
        actor: dict[str, Any] = event.get("Actor") or {}
        labels: dict[str, str] = actor.get("Attributes") or {}
        if labels.get(LABEL_PROJECT) != self._names.project:
            return
        if labels.get(LABEL_ROLE) in ("pod", "lb"):
            container, action = str(actor.get("ID")), event.get("Action")
            if action == "stop":
                self._stopped.add(container)
            elif action in ("start", "destroy"):
                self._stopped.discard(container)
            self._news.set()

    async def _keep_looking(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_INTERVAL_S):
                    await self._news.wait()
            self._news.clear()
            await asyncio.sleep(_SETTLE_S)  # events come in bursts
            await self._look()

    async def _look(self) -> None:
        listed = [
            container
            for role in ("pod", "lb")
            for container in await self._engine.containers(self._names.filters(role))
        ]
        pieces = [piece for one in listed if (piece := await self._piece(one)) is not None]
        pods = [piece for piece in pieces if piece.is_pod]
        actions = remedies(pieces, self._stopped, self._moved, time.time(), _GRACE_S)
        for remedy, piece in actions:
            _log.warning(
                "%s does not run as it should (%s)", piece.name, piece.error or remedy.value
            )
            with contextlib.suppress(EngineRefusedError):  # the next look finds out
                if remedy is Remedy.START:
                    await self._engine.start(piece.id)
                else:
                    self._moved.add(move_of(piece, pods))
                    await self._engine.restart(piece.id)
        if any(not piece.running for piece in pieces):
            asyncio.get_running_loop().call_later(_GRACE_S, self._news.set)

    async def _piece(self, listed: Json) -> Piece | None:
        try:
            facts = await self._engine.inspect(listed["Id"])
        except EngineRefusedError:
            return None  # it is gone
        state, labels = facts["State"], facts["Config"]["Labels"]
        started, finished = str(state["StartedAt"]), str(state["FinishedAt"])
        running = bool(state["Running"])
        return Piece(
            id=str(facts["Id"]),
            name=listed_name(listed),
            is_pod=labels.get(LABEL_ROLE) == "pod",
            running=running,
            started_at="" if started.startswith(_NEVER) else started,
            error=str(state["Error"]) if not running else "",
            joins=str(facts["HostConfig"]["NetworkMode"]).removeprefix("container:"),
            exit_status=int(state["ExitCode"]),
            exited_at=0.0 if running else _seconds(finished),
        )


def _seconds(moment: str) -> float:
    """An engine's time in seconds since the epoch; 0.0 for what is none."""
    try:
        # Nine digits of a second; datetime takes six.
        whole, _, rest = moment.partition(".")
        zone = "+00:00" if rest.endswith("Z") or not rest else ""
        fraction = "".join(char for char in rest if char.isdigit())[:6].ljust(6, "0")
        return datetime.fromisoformat(f"{whole.rstrip('Z')}.{fraction}{zone}").timestamp()
    except (ValueError, OverflowError):
        return 0.0
