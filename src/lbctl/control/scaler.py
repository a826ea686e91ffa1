"""How many backends there are, and of what: the one owner of that wish.

A wish for a number is carried out once: look at what the runtime has, start or stop the
difference, wait until every list says so. Such wishes are carried out one after the other; a
newer one ends the waiting of those before it, and those it overtook before they began are never
begun. Rollout and healing take turns with them; while a rollout is under way, a number is
refused, because nobody could say of which release it should be.

All of it is saved before it is acted on, so that the next controller goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import UTC
from typing import TYPE_CHECKING, Any

from lbctl.config import MAX_REPLICAS
from lbctl.control.healer import Healer
from lbctl.control.leaving import Leaving
from lbctl.control.reconciler import utc_now
from lbctl.control.rollout import RolloutRunner
from lbctl.control.tasks import first_of
from lbctl.control.testimony import last_words
from lbctl.core.history import Event, Kind, unheard
from lbctl.core.lifecycle import Plan, in_rotation, plan, to_replace
from lbctl.core.text import printable
from lbctl.core.wish import Wish, from_document, to_document
from lbctl.errors import DeadlineError, LbctlError, OperationError, UsageError
from lbctl.model import Release, Rollout, RolloutState, State

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from datetime import datetime

    from lbctl.config import Control, Fleet
    from lbctl.control.reconciler import Reconciler
    from lbctl.control.store import Store
    from lbctl.model import BackendStatus, HealingStatus
    from lbctl.ports import Routes, Runtime

log = logging.getLogger(__name__)

_NAMED_AT_MOST = 5
_SICK = frozenset({State.PROBING, State.ENROLLING, State.DOWN, State.INVALID})


class Scaler:
    """Implements ports.Scaler. `look` asks discovery to list soon; `image` is the one that the
    settings name, empty where backends are not made from images.

    Goes on with what the last controller left, and heals, while `run` runs.
    """

    def __init__(
        self,
        runtime: Runtime,
        reconciler: Reconciler,
        routes: Routes,
        control: Control,
        fleet: Fleet,
        store: Store,
        look: Callable[[], None],
        image: str = "",
        record: Callable[[Event], None] = unheard,
    ) -> None:
        self._runtime = runtime
        self._record = record
        self._reconciler = reconciler
        self._control = control
        self._store = store
        self._look = look
        self._turn = asyncio.Lock()
        self._wishes = 0
        self._newer = asyncio.Event()  # set when the wish being carried out is not the last
        self._running: set[asyncio.Task[None]] = set()
        self._last: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()  # set when there is a new rollout
        self._wish = _restore(store.load(), image)
        self._leaving = Leaving(runtime, reconciler, routes, control.drain_timeout_s, self._let_in)
        self._roller = RolloutRunner(
            runtime,
            reconciler,
            self._leaving,
            fleet.rollout_timeout_s,
            look=look,
            drained=lambda: self._wish.drained,
            report=self._rolled,
        )
        self._healer = Healer(
            runtime,
            reconciler,
            self._leaving,
            fleet,
            wish=lambda: self._wish,
            turn=self._turn,
            look=look,
            record=record,
        )
        for backend_id, since in self._wish.drained.items():
            reconciler.drain([backend_id], _by_hand(since))

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._healer.run())
            group.create_task(self._roll_when_asked())
            wish, rollout = self._wish, self._wish.rollout
            rolling = rollout is not None and rollout.under_way
            if wish.replicas is not None and not wish.reached and not rolling:
                log.info("going on with the scaling of the last controller")
                job = self._carry_out_and_tell(wish.replicas, self._wishes)
                self._last = self._spawn(job)

    async def close(self) -> None:
        """Give up what is under way; backends stay as they are."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    @property
    def replicas(self) -> int | None:
        """The last wish."""
        return self._wish.replicas

    @property
    def rollout(self) -> Rollout | None:
        """The last one."""
        return self._wish.rollout

    @property
    def healing(self) -> HealingStatus:
        """What the healer is at."""
        return self._healer.status

    # A number

    async def scale(self, replicas: int) -> None:
        """Return when exactly so many are up, and hold the list that says so. Those that were
        drained by hand count as up.

        A caller that goes away does not end what it asked for. Raises UsageError,
        DeadlineError naming who lags and why, EngineError as the runtime does, and
        OperationError if a newer wish came in between, or a rollout is under way.
        """
        if not 1 <= replicas <= MAX_REPLICAS:
            raise UsageError(f"replicas: {replicas} is out of range (1 to {MAX_REPLICAS})")
        self._refuse_while_rolling()
        self._healer.begin_anew()
        task = self._last
        if task is None or task.done() or replicas != self._wish.replicas:
            wish = {"replicas": replicas, "before": self._wish.replicas}
            self._record(Event(Kind.SCALE, f"to {replicas}: asked for", data=wish))
            self._change(replicas=replicas, reached=False)
            self._wishes += 1
            self._newer.set()
            job = self._carry_out_and_tell(replicas, self._wishes)
            task = self._last = self._spawn(job)
        # Else the same is being carried out: wait with them.
        try:
            async with asyncio.timeout(self._control.scale_timeout_s):
                if not self._reconciler.observed:
                    await self._runtime.list()  # raises the reason, where there is one
                await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineError(await self._lag(replicas)) from None

    async def _carry_out(self, replicas: int, wish: int) -> None:
        async with self._turn:
            await self._reconciler.wait_until(lambda: self._reconciler.observed)
            if wish != self._wishes:
                raise self._overtaken()
            self._newer.clear()
            instances = await self._runtime.list()
            todo = plan(replicas, instances, self._reconciler.statuses(), self._wish.drained)
            log.info(
                "scaling to %d: %d to start, %d to stop, %d dead ones to clear away",
                replicas, todo.start, len(todo.stop), len(todo.clear),
            )  # fmt: skip
            await self._act(todo)
            gone = {*todo.stop, *todo.clear}
            try:
                # Whoever is not up by then is the healer's business.
                async with asyncio.timeout(self._control.scale_timeout_s):
                    await self._until_newer(lambda: self._reached(replicas, gone))
            except TimeoutError:
                self._change(reached=True)
                raise DeadlineError(await self._lag(replicas)) from None
        if wish != self._wishes:
            raise self._overtaken()
        self._change(reached=True)

    async def _act(self, todo: Plan) -> None:
        try:
            if todo.stop:
                await self._leaving.leave(todo.stop, "it leaves: scaled down")
            await self._leaving.clear(todo.clear)
        finally:
            self._forget([*todo.stop, *todo.clear])
        if todo.start:
            await self._runtime.start(todo.start, self._wish.release)
        self._look()

    async def _until_newer(self, check: Callable[[], bool]) -> None:
        """Wait until `check` holds, or a newer wish makes it pointless."""
        await first_of(self._reconciler.wait_until(check), self._newer.wait())

    def _reached(self, replicas: int, gone: set[str]) -> bool:
        statuses = self._reconciler.backends()
        up = sum(in_rotation(status) for status in statuses)
        listed = len(self._reconciler.membership().members)
        resting = sum(self._rests(status) for status in statuses)
        departed = not any(status.id in gone for status in statuses)
        return up == listed == replicas - resting and departed and not self._reconciler.lagging()

    async def _lag(self, replicas: int) -> str:
        """What the deadline's error says."""
        if not self._reconciler.observed:
            return f"after {self._control.scale_timeout_s:g} s the runtime has not shown a list yet"
        statuses = self._reconciler.backends()
        up = [status for status in statuses if in_rotation(status)]
        others = [status for status in statuses if not in_rotation(status)]
        facts = [f"{s.name} is {s.state.value}: {s.reason}" for s in others]
        facts += [f"{name} {why}" for name, why in self._reconciler.lagging()]
        text = (
            f"after {self._control.scale_timeout_s:g} s, {len(up)} of {replicas} backends "
            f"are in rotation; {_some(facts) or 'the runtime shows no others'}"
        )
        suspects = [status for status in others if not self._rests(status)]
        sick = min(suspects, key=lambda status: status.state not in _SICK, default=None)
        words = await last_words(self._runtime, sick.id) if sick is not None else ""
        return f"{text}\n{sick.name} said last:{words}" if sick is not None and words else text

    def _overtaken(self) -> OperationError:
        if self._wish.rollout is not None and self._wish.rollout.under_way:
            return OperationError("a newer wish came in between: a rollout")
        return OperationError(f"a newer wish came in between: scale to {self._wish.replicas}")

    # By hand

    async def drain(self, backend_id: str) -> None:
        """Take it out until `undrain`; return when no list names it and nothing is in flight on
        it, or the drain timeout passed. Again, it only waits.

        Raises OperationError where it is not there, leaves anyway, or is the last in rotation.
        """
        statuses = self._reconciler.statuses()
        status = statuses.get(backend_id)
        if status is None:
            raise OperationError(f"no backend has the id {printable(backend_id, 64)}")
        if backend_id not in self._wish.drained:
            if status.state is State.DRAINING:
                raise OperationError(f"{status.name} leaves already: {status.reason}")
            up = [one for one in statuses.values() if in_rotation(one)]
            if up == [status]:
                raise OperationError(
                    f"{status.name} is the last one in rotation: without it nobody would answer"
                )
            # Those that are gone meanwhile, by a rollout for one, are forgotten here. Where nobody
            # tells who is there, that is not known of anybody.
            kept = {
                one: at
                for one, at in self._wish.drained.items()
                if one in statuses or not self._reconciler.observed
            }
            self._change(drained=kept | {backend_id: utc_now()})
        reason = _by_hand(self._wish.drained[backend_id])
        await self._leaving.retire([backend_id], reason)

    async def undrain(self, backend_id: str) -> None:
        """Let it in again; return when it is in rotation and every list says so, or the drain
        timeout has passed without that. One that was not drained by hand is only waited for.
        """
        if backend_id in self._wish.drained:
            self._forget([backend_id])
            self._reconciler.undrain([backend_id])

        def back() -> bool:
            return (
                in_rotation(self._reconciler.statuses().get(backend_id))
                and not self._reconciler.lagging()
            )

        try:
            async with asyncio.timeout(self._control.drain_timeout_s):
                await self._reconciler.wait_until(back)
        except TimeoutError:
            log.warning("%s was let in again, and is not in rotation", backend_id[:12])

    def _rests(self, status: BackendStatus) -> bool:
        return status.id in self._wish.drained and status.state is State.DRAINING

    def _let_in(self, backend_ids: Iterable[str]) -> None:
        for backend_id in backend_ids:
            since = self._wish.drained.get(backend_id)
            if since is None:
                self._reconciler.undrain([backend_id])
            else:
                self._reconciler.drain([backend_id], _by_hand(since))

    # Another release

    async def roll_out(self, image: str, batch: int) -> Rollout:
        """Begin to replace all backends that lbctl started; it goes on by itself.

        An empty `image` is the present one. Raises OperationError while a rollout is under way
        and where there is nothing to replace, UsageError, EngineError.
        """
        if not 1 <= batch <= MAX_REPLICAS:
            raise UsageError(f"batch: {batch} is out of range (1 to {MAX_REPLICAS})")
        if image and not self._wish.configured:
            raise UsageError("backends are not made from images here: leave the image out")
        self._refuse_while_rolling()
        instances = await self._runtime.list()
        self._refuse_while_rolling()
        total = to_replace(self._wish.replicas, instances, self._reconciler.statuses())
        if total < 1:
            raise OperationError("lbctl has started none of the backends: nothing to roll out")
        release = self._wish.next_release(image)
        rollout = Rollout(release, self._wish.release, total, batch, image)
        self._record(_of_rollout(rollout))
        self._change(rollout=rollout)
        self._wishes += 1
        self._newer.set()
        self._asked.set()
        return rollout

    async def _roll_when_asked(self) -> None:
        """Until cancelled. What escapes a rollout ends the controller: the next one goes on."""
        await self._reconciler.wait_until(lambda: self._reconciler.observed)
        while True:
            rollout = self._wish.rollout
            if rollout is not None and rollout.under_way:
                async with self._turn:
                    self._healer.begin_anew()
                    await self._roller.run(rollout)
            await self._asked.wait()
            self._asked.clear()

    def _rolled(self, rollout: Rollout) -> None:
        release = rollout.release if rollout.state is RolloutState.DONE else self._wish.release
        log.info(
            "rollout %d is %s: %d of %d replaced",
            rollout.release.revision, rollout.state.value, rollout.replaced, rollout.total,
        )  # fmt: skip
        before = self._wish.rollout
        if before is None or before.state is not rollout.state:
            self._record(_of_rollout(rollout))
        self._change(rollout=rollout, release=release)

    def _refuse_while_rolling(self) -> None:
        rollout = self._wish.rollout
        if rollout is not None and rollout.under_way:
            raise OperationError(
                f"a rollout is under way ({rollout.state.value}, {rollout.replaced} of "
                f"{rollout.total} replaced); wait for its end, lbctl status shows it"
            )

    # What all of them need

    def _forget(self, backend_ids: Iterable[str]) -> None:
        """They are not drained by hand any more."""
        drained = {**self._wish.drained}
        for backend_id in backend_ids:
            drained.pop(backend_id, None)
        self._change(drained=drained)

    def _change(self, **changes: Any) -> None:
        wish = replace(self._wish, **changes)
        if wish != self._wish:
            self._wish = wish
            self._store.save(to_document(wish))

    async def _carry_out_and_tell(self, replicas: int, wish: int) -> None:
        data = {"replicas": replicas}
        try:
            await self._carry_out(replicas, wish)
        except LbctlError as error:
            why = str(error).partition("\n")[0]  # what follows is a container's log
            self._record(Event(Kind.SCALE, f"to {replicas}: {why}", data=data))
            raise
        self._record(Event(Kind.SCALE, f"to {replicas}: done", data=data))

    def _spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(job)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("scaling ended: %s", error)


def _by_hand(since: datetime) -> str:
    return f"drained by hand at {since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _of_rollout(rollout: Rollout) -> Event:
    said = rollout.message.partition("\n")[0]
    text = f"{rollout.state.value}, {rollout.replaced} of {rollout.total} replaced"
    data = {
        "revision": rollout.release.revision,
        "image": rollout.asked,
        "state": rollout.state.value,
        "replaced": rollout.replaced,
        "total": rollout.total,
    }
    return Event(
        Kind.ROLLOUT, text + (f": {said}" if said else ""), str(rollout.release.revision), data
    )


def _some(facts: Sequence[str]) -> str:
    shown = [printable(fact) for fact in facts[:_NAMED_AT_MOST]]
    if len(facts) > len(shown):
        shown.append(f"and {len(facts) - len(shown)} more")
    return "; ".join(shown)


def _restore(document: Any, image: str) -> Wish:
    """The wish of the last controller."""
    fresh = Wish(release=Release(image=image), configured=image)
    if document is None:
        return fresh
    try:
        return from_document(document, image)
    except ValueError as error:
        log.warning("what was wished for is of no use, starting afresh: %s", error)
        return fresh
