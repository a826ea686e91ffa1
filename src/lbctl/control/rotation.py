"""New tokens in the place of the old ones, without a moment in which a right one is refused; and
the end of those of backends that have left.

The files change first (lbctl.tokens), and with them what the publisher sends and what the admin
port takes. Then every backend is written to anew, so that none is left that has only ever been
seen to take its old token, and none is about to get it. Only then the old ones go.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lbctl import tokens
from lbctl.core.text import printable
from lbctl.errors import OperationError
from lbctl.model import Rotation

if TYPE_CHECKING:
    from lbctl.control.reconciler import Reconciler
    from lbctl.paths import Paths

log = logging.getLogger(__name__)

SPREAD_S = 10.0
"""A backend that has not taken the new token by then is named, and not waited for."""
OVERLAP_S = 2.0
"""Old and new are valid together for so long at least: a command reads the token, and uses it a
moment later.
"""
_RETRY_S = 5.0


class TokenRotator:
    """Implements ports.Rotator. While `run` runs, it finishes what the last controller began and
    what failed half way, and withdraws the tokens of those that are sent no lists any more.
    """

    def __init__(
        self,
        paths: Paths,
        reconciler: Reconciler,
        *,
        spread_s: float = SPREAD_S,
        overlap_s: float = OVERLAP_S,
        retry_s: float = _RETRY_S,
    ) -> None:
        self._paths = paths
        self._reconciler = reconciler
        self._spread_s = spread_s
        self._overlap_s = overlap_s
        self._retry_s = retry_s
        self._turn = asyncio.Lock()
        self._failed = asyncio.Event()
        if tokens.under_way(paths):
            self._failed.set()

    @property
    def rotating(self) -> bool:
        return tokens.under_way(self._paths)

    @property
    def changed_at(self) -> datetime | None:
        seconds = tokens.changed_at(self._paths)
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    async def rotate(self) -> Rotation:
        if self._turn.locked() or self.rotating:
            raise OperationError("the tokens are being rotated already: see lbctl status")
        async with self._turn:
            try:
                tokens.begin(self._paths)
                return await self._complete()
            except BaseException:
                self._failed.set()
                raise

    async def run(self) -> None:
        """Until cancelled."""
        # Until it knows who is there, nobody is behind, and everybody has left.
        await self._reconciler.wait_until(lambda: self._reconciler.decides)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._finish_what_failed())
            group.create_task(self._withdraw())

    async def _withdraw(self) -> None:
        seen = -1  # others may have left while nobody led
        while True:
            seen = await self._reconciler.departures(seen)
            if self.rotating:
                continue  # old tokens count, and the end of that takes all others away
            try:
                tokens.keep_known(self._paths, self._reconciler.recipients())
            except OperationError as error:
                log.warning("%s; trying again", error)
                seen = -1
                await asyncio.sleep(self._retry_s)

    async def _finish_what_failed(self) -> None:
        while True:
            await self._failed.wait()
            async with self._turn:
                try:
                    log.info("going on with a rotation of the tokens that was not finished")
                    await self._complete()
                except OperationError as error:
                    log.warning("%s; trying again", error)
                else:
                    self._failed.clear()
            if self._failed.is_set():
                await asyncio.sleep(self._retry_s)

    async def _complete(self) -> Rotation:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        taken, lagging = await self._reconciler.rewrite(self._spread_s)
        spread_s = loop.time() - began_s
        for name, why in lagging:
            log.warning("%s has not taken the new token: %s", printable(name), printable(why))
        await asyncio.sleep(max(0.0, began_s + self._overlap_s - loop.time()))
        tokens.finish(self._paths, self._reconciler.recipients())
        log.info("only the present tokens are valid from now on")
        return Rotation(taken, tuple(lagging), spread_s)
