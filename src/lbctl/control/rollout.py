"""Carries out a rollout: looks at what is there, takes the next step, looks again.

Every step is planned from what the runtime shows (core/lifecycle.py), so a controller that
takes over goes on from there. What would be lost with a controller, the release and the state,
is told to `report` before it is acted on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.control.testimony import last_words
from lbctl.core.lifecycle import EXITED_S, exchange, failed_start, in_rotation
from lbctl.errors import EngineUnavailableError, ImageError, LbctlError, OperationError
from lbctl.model import Phase, RolloutState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lbctl.control.leaving import Leaving
    from lbctl.control.reconciler import Reconciler
    from lbctl.core.lifecycle import Exchange
    from lbctl.model import Instance, Release, Rollout
    from lbctl.ports import Runtime

log = logging.getLogger(__name__)

_LOOK_S = 0.5  # at most between two looks at those that are on their way
_RETRY_S = 1.0  # after the engine failed
_START_TRIES = 3  # an engine that refuses so often means it


class _NotWellError(Exception):
    """The release does not come into rotation; the text says who, and why."""


class RolloutRunner:
    """`look` asks discovery to list soon; `drained` names those that are out by hand."""

    def __init__(
        self,
        runtime: Runtime,
        reconciler: Reconciler,
        leaving: Leaving,
        timeout_s: float,
        *,
        look: Callable[[], None],
        drained: Callable[[], Collection[str]],
        report: Callable[[Rollout], None],
    ) -> None:
        self._runtime = runtime
        self._reconciler = reconciler
        self._leaving = leaving
        self._timeout_s = timeout_s
        self._look = look
        self._drained = drained
        self._report = report

    async def run(self, rollout: Rollout) -> None:
        """From where it stands to its end, one way or the other."""
        if rollout.state is RolloutState.RUNNING:
            try:
                rollout = await self._bring(rollout, rollout.release)
            except _NotWellError as error:
                log.warning("the rollout goes back: %s", error)
                rollout = replace(
                    rollout, state=RolloutState.ROLLING_BACK, replaced=0, message=str(error)
                )
                self._report(rollout)
            else:
                return self._report(replace(rollout, state=RolloutState.DONE))
        try:
            rollout = await self._bring(rollout, rollout.previous)
        except _NotWellError as error:
            message = f"{rollout.message}\ngoing back failed too: {error}"
            self._report(replace(rollout, state=RolloutState.FAILED, message=message))
        else:
            self._report(replace(rollout, state=RolloutState.ROLLED_BACK))

    async def _bring(self, rollout: Rollout, release: Release) -> Rollout:
        """Until all backends are of this release. Raises _NotWellError."""
        clock = asyncio.get_running_loop().time
        waits = _Waits(clock)
        heard_s, refusals = clock(), 0
        while True:
            try:
                instances = await self._runtime.list()
                step = self._plan(rollout, release, instances)
                if step.ready != rollout.replaced:
                    rollout = replace(rollout, replaced=step.ready)
                    self._report(rollout)
                waits.only([one for one in instances if one.id in step.waiting])
                if step.stop:
                    await self._leaving.leave(step.stop, "it leaves: replaced by a rollout")
                    self._look()
                elif step.waiting:
                    await self._judge(step.waiting, instances, waits)
                    await self._until_one_is_ready(step.waiting)
                elif step.start:
                    await self._runtime.start(step.start, release)
                    self._look()
                else:
                    await self._until_gone(instances)
                    return rollout
                heard_s, refusals = clock(), 0
            except ImageError as error:
                raise _NotWellError(str(error)) from None
            except (OperationError, EngineUnavailableError) as error:
                refusals += isinstance(error, OperationError)
                if refusals >= _START_TRIES or clock() - heard_s >= self._timeout_s:
                    raise _NotWellError(str(error)) from None
                log.warning("the rollout waits: %s", error)
                await asyncio.sleep(_RETRY_S)

    def _plan(
        self, rollout: Rollout, release: Release, instances: Collection[Instance]
    ) -> Exchange:
        return exchange(
            release.revision,
            rollout.total,
            rollout.batch,
            instances,
            self._reconciler.statuses(),
            self._drained(),
        )

    async def _judge(
        self, waiting: Collection[str], instances: Collection[Instance], waits: _Waits
    ) -> None:
        """Raises _NotWellError, when the newcomers that are of no use have been removed."""
        statuses = self._reconciler.statuses()
        failed = {
            instance: why
            for instance in instances
            if instance.id in waiting
            and (
                why := failed_start(
                    instance,
                    statuses.get(instance.id),
                    waits.of(instance.id),
                    self._timeout_s,
                    waits.exited(instance.id),
                )
            )
        }
        if not failed:
            return
        instance, why = next(iter(failed.items()))
        message = f"{instance.name} {why}{await last_words(self._runtime, instance.id)}"
        with contextlib.suppress(LbctlError):  # then it goes with the others of its release
            await self._leaving.leave([one.id for one in failed], "it leaves: it is not well")
        raise _NotWellError(message)

    async def _until_one_is_ready(self, waiting: Collection[str]) -> None:
        def ready() -> bool:
            statuses = self._reconciler.statuses()
            return any(in_rotation(statuses.get(one)) for one in waiting)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_LOOK_S, self._timeout_s / 10)):
                await self._reconciler.wait_until(ready)

    async def _until_gone(self, instances: Collection[Instance]) -> None:
        """Wait until status shows nobody that is not there any more."""
        there = {instance.id for instance in instances}
        self._look()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await self._reconciler.wait_until(
                    lambda: self._reconciler.statuses().keys() <= there
                )


class _Waits:
    """Since when each newcomer is waited for, on the loop's clock, and how it ended last."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}
        self._ends: dict[str, tuple[float, str]] = {}

    def only(self, instances: Collection[Instance]) -> None:
        """These, as they are now, and no others are waited for."""
        now = self._clock()
        self._since = {one.id: self._since.get(one.id, now) for one in instances}
        for one in instances:
            if one.phase is Phase.EXITED:
                self._ends[one.id] = now, one.problem or "it has exited"

    def of(self, backend_id: str) -> float:
        """Seconds."""
        return self._clock() - self._since[backend_id]

    def exited(self, backend_id: str) -> str:
        """How it ended, if that is not long ago."""
        at_s, how = self._ends.get(backend_id, (-math.inf, ""))
        return how if self._clock() - at_s <= EXITED_S else ""
