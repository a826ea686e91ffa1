"""Replaces backends that are gone or ill: the shell around core/healing.py.

It looks every second. While a scale or a rollout has its turn it does not: whoever is missing
then is their business.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from lbctl.control.testimony import last_words
from lbctl.core.healing import Patience, treat
from lbctl.core.history import Event, Kind, unheard
from lbctl.core.lifecycle import in_rotation
from lbctl.core.text import printable
from lbctl.errors import EngineUnavailableError, OperationError
from lbctl.model import HealingState, HealingStatus, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl.config import Fleet
    from lbctl.control.leaving import Leaving
    from lbctl.control.reconciler import Reconciler
    from lbctl.core.healing import Treatment
    from lbctl.core.wish import Wish
    from lbctl.model import BackendStatus, Instance, Release
    from lbctl.ports import Runtime

log = logging.getLogger(__name__)

_LOOK_S = 1.0

_OFF = HealingStatus(HealingState.OFF)
_NO_WISH = HealingStatus(HealingState.OFF, "nobody told lbctl how many backends to have")


class Healer:
    """Works while `run` runs. `turn` is held by whoever changes the number of backends;
    `look` asks discovery to list soon.
    """

    def __init__(
        self,
        runtime: Runtime,
        reconciler: Reconciler,
        leaving: Leaving,
        settings: Fleet,
        *,
        wish: Callable[[], Wish],
        turn: asyncio.Lock,
        look: Callable[[], None],
        record: Callable[[Event], None] = unheard,
    ) -> None:
        self._runtime = runtime
        self._reconciler = reconciler
        self._leaving = leaving
        self._settings = settings
        self._wish = wish
        self._turn = turn
        self._look = look
        self._record = record
        self._patience = Patience(
            settings.heal_after_s,
            settings.heal_limit,
            settings.heal_retry_min_s,
            settings.heal_retry_max_s,
        )
        self._newcomers: dict[str, str] = {}  # id: what is known of it, for the day it fails
        self._status = HealingStatus(HealingState.IDLE)

    @property
    def status(self) -> HealingStatus:
        """As of the last look."""
        if self._settings.heal == "off":
            return _OFF
        return self._status if self._wish().replicas is not None else _NO_WISH

    def begin_anew(self) -> None:
        """Somebody asked for something: what was of no use before may be of use now."""
        self._patience.begin_anew()
        self._newcomers.clear()

    async def run(self) -> None:
        """Until cancelled; at once where healing is off."""
        if self._settings.heal == "off":
            return
        while True:
            await asyncio.sleep(min(_LOOK_S, self._settings.heal_after_s / 5))
            if self._turn.locked():
                continue
            async with self._turn:
                try:
                    await self._heal()
                except (OperationError, EngineUnavailableError) as error:
                    log.warning("healing waits: %s", error)

    async def _heal(self) -> None:
        wish = self._wish()
        if wish.replicas is None or not self._reconciler.observed:
            return
        now = asyncio.get_running_loop().time()
        statuses = self._reconciler.statuses()
        well = {id_ for id_, status in statuses.items() if in_rotation(status)}
        resting = {
            id_ for id_ in wish.drained if id_ in statuses and statuses[id_].state is State.DRAINING
        }
        self._patience.look(now, statuses, resting)
        missed = self._patience.missed(now)
        if len(well) + len(resting) >= wish.replicas and not missed and not self._newcomers:
            self._status = self._patience.status(now, 0, 0)
            return
        self._remember(statuses)
        instances = await self._runtime.list()
        treatment = treat(
            wish.replicas,
            instances,
            statuses,
            resting=resting,
            missed=missed,
            newcomers=self._newcomers,
        )
        for one in well & self._newcomers.keys():
            del self._newcomers[one]
        started = await self._act(treatment, wish.release, instances, now)
        self._status = self._patience.status(now, treatment.start - started, len(self._newcomers))

    async def _act(
        self, treatment: Treatment, release: Release, instances: Sequence[Instance], now: float
    ) -> int:
        """Returns how many newcomers were started."""
        names = {instance.id: printable(instance.name) for instance in instances}
        if treatment.fruitless:
            why = await self._testimony(treatment.fruitless[-1])
            self._patience.was_fruitless(now, len(treatment.fruitless), why)
            log.warning("a replacement was of no use: %s", why)
            first, _, _ = why.partition("\n")
            self._tell(f"a replacement was of no use: {first}")
            for one in treatment.fruitless:
                del self._newcomers[one]
        if treatment.clear:
            log.info("clearing away %s", ", ".join(names[one] for one in treatment.clear))
            self._tell("cleared away", [names[one] for one in treatment.clear])
            await self._leaving.clear(treatment.clear)
        if treatment.stop:
            log.info("taking out %s", ", ".join(names[one] for one in treatment.stop))
            self._tell("taken out, as replaced", [names[one] for one in treatment.stop])
            for one in treatment.stop:
                self._newcomers.pop(one, None)
            await self._leaving.leave(treatment.stop, "it leaves: it was replaced")
        started = await self._start(self._patience.allowed(now, treatment.start), release, now)
        if treatment.clear or treatment.stop or started:
            self._look()
        return started

    async def _start(self, count: int, release: Release, now: float) -> int:
        if not count:
            return 0
        log.warning("%d backends are missing: starting as many", count)
        try:
            ids = await self._runtime.start(count, release)
        except OperationError as error:
            self._patience.was_fruitless(now, 1, str(error))
            log.warning("a replacement cannot be started: %s", error)
            self._tell(f"a replacement cannot be started: {error}")
            return 0
        self._tell(f"missing: {count}, and as many are started", ids)
        self._newcomers |= dict.fromkeys(ids, "")
        return count

    def _tell(self, text: str, backends: Sequence[str] = ()) -> None:
        self._record(Event(Kind.HEAL, text, ", ".join(backends), {"backends": list(backends)}))

    def _remember(self, statuses: dict[str, BackendStatus]) -> None:
        """What to say of a newcomer that is gone when somebody asks."""
        for id_ in self._newcomers.keys() & statuses.keys():
            status = statuses[id_]
            self._newcomers[id_] = f"{status.name} is {status.state.value}: {status.reason}"

    async def _testimony(self, newcomer: str) -> str:
        known = self._newcomers[newcomer] or f"{newcomer[:12]} was never seen running"
        return known + await last_words(self._runtime, newcomer)
