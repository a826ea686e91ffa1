"""The control plane with a runtime, workers and backends in memory: the real reconciler,
discovery, prober, publisher and scaler.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lbctl.config import Control, Fleet, Health
from lbctl.control.discovery import Discovery
from lbctl.control.reconciler import Reconciler
from lbctl.control.scaler import Scaler
from lbctl.model import ControlStats, State
from tests.support.fakes import FakeProbe, FakeRoutes, FakeRuntime, FakeWriter, MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lbctl.core.history import Event, Kind
    from lbctl.model import Instance

HEALTH = Health(probe_interval_s=0.05, first_probe_interval_s=0.01)
CONTROL = Control(
    publish_retry_min_s=0.01, publish_retry_max_s=0.05, drain_timeout_s=0.5, scale_timeout_s=5.0
)


FLEET = Fleet(
    heal_after_s=0.3, heal_limit=3, heal_retry_min_s=0.05, heal_retry_max_s=0.2,
    rollout_timeout_s=0.5,
)  # fmt: skip

NOT_HEALING = replace(FLEET, heal="off")


class Harness:
    """One controller. `wish` and `saved` are its stores of the scaler and of the membership, `up`
    who is in rotation.
    """

    def __init__(
        self,
        runtime: FakeRuntime,
        control: Control,
        fleet: Fleet,
        wish: Any,
        saved: Any,
        image: str,
    ) -> None:
        self.runtime = runtime
        self.probe, self.writer, self.routes = FakeProbe(), FakeWriter(), FakeRoutes()
        self.wish, self.saved = MemoryStore(wish), MemoryStore(saved)
        self.told: list[Event] = []  # what a history would have
        stats = ControlStats()
        self.reconciler = Reconciler(
            HEALTH,
            control,
            probe=self.probe,
            writer=self.writer,
            routes=self.routes,
            store=self.saved,
            stats=stats,
            record=self.told.append,
        )
        self.discovery = Discovery(runtime, control, stats, self.reconciler.observe)
        self.scaler = Scaler(
            runtime,
            self.reconciler,
            self.routes,
            control,
            fleet,
            self.wish,
            self.discovery.look,
            image,
            self.told.append,
        )

    def heard(self, *kinds: Kind) -> list[tuple[str, str]]:
        """Subject and text of what was told of these kinds."""
        return [(event.subject, event.text) for event in self.told if event.kind in kinds]

    def up(self) -> list[str]:
        return [row.name for row in self.reconciler.backends() if row.state is State.UP]


@asynccontextmanager
async def controlled(
    *instances: Instance,
    control: Control = CONTROL,
    fleet: Fleet = NOT_HEALING,
    wish: Any = None,
    saved: Any = None,
    image: str = "old:1",
) -> AsyncIterator[Harness]:
    """A controller that runs; leaving the block ends it, and its backends stay."""
    it = Harness(FakeRuntime(*instances), control, fleet, wish, saved, image)
    jobs = (it.reconciler.run(), it.discovery.run(), it.scaler.run())
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield it
    finally:
        await it.scaler.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
