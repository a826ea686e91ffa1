"""Scaling, with a runtime in memory and the real discovery, prober and publisher."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.config import Control, Health
from lbctl.control.discovery import Discovery
from lbctl.control.reconciler import Reconciler
from lbctl.control.scaler import STOP_GRACE_S, Scaler
from lbctl.errors import DeadlineError, EngineError, OperationError, UsageError
from lbctl.model import ControlStats, Phase, State
from tests.support.deadlines import eventually
from tests.support.fakes import (
    FakeProbe,
    FakeRoutes,
    FakeRuntime,
    FakeWriter,
    MemoryStore,
    running,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lbctl.model import Instance

HEALTH = Health(probe_interval_s=0.05, first_probe_interval_s=0.01)
CONTROL = Control(
    publish_retry_min_s=0.01, publish_retry_max_s=0.05, drain_timeout_s=0.5, scale_timeout_s=5.0
)


class Harness:
    def __init__(self, runtime: FakeRuntime, control: Control, wish: Any) -> None:
        self.runtime = runtime
        self.probe, self.writer, self.routes = FakeProbe(), FakeWriter(), FakeRoutes()
        self.wish = MemoryStore(wish)
        stats = ControlStats()
        self.reconciler = Reconciler(
            HEALTH,
            control,
            probe=self.probe,
            writer=self.writer,
            routes=self.routes,
            store=MemoryStore(),
            stats=stats,
        )
        self.discovery = Discovery(runtime, control, stats, self.reconciler.observe)
        self.scaler = Scaler(
            runtime, self.reconciler, self.routes, control, self.wish, self.discovery.look
        )

    def up(self) -> list[str]:
        return [row.name for row in self.reconciler.backends() if row.state is State.UP]


@asynccontextmanager
async def stack(
    *instances: Instance, control: Control = CONTROL, wish: Any = None
) -> AsyncIterator[Harness]:
    it = Harness(FakeRuntime(*instances), control, wish)
    tasks = [asyncio.create_task(c) for c in (it.reconciler.run(), it.discovery.run())]
    try:
        yield it
    finally:
        await it.scaler.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_up_and_down_and_every_list_is_right_at_return() -> None:
    async with stack() as it:
        for wish in (3, 6, 2, 1, 4):
            await it.scaler.scale(wish)
            assert it.scaler.replicas == wish
            names = it.up()
            ips = sorted(it.runtime.instances[name].backend.ip for name in names)  # type: ignore[union-attr]
            assert len(names) == len(it.runtime.instances) == wish
            assert len(it.reconciler.backends()) == wish  # who left is not shown any more
            assert all(it.writer.ips(name) == ips for name in names)
            assert sorted(it.routes.routed) == sorted(names)


async def test_a_victim_leaves_routes_and_lists_before_it_is_stopped() -> None:
    async with stack() as it:
        await it.scaler.scale(2)
        gate = asyncio.Event()
        it.writer.gates = {"own-1": gate, "own-2": gate}
        scaling = asyncio.create_task(it.scaler.scale(1))
        await eventually(lambda: len(it.routes.routed) == 1)
        (kept,) = it.routes.routed
        assert len(it.reconciler.membership().members) == 1
        await eventually(lambda: (kept, it.reconciler.membership().generation) in it.writer.writes)
        assert it.runtime.graces == {}  # the other's list still names it
        gate.set()
        await scaling
        (victim,) = it.runtime.graces
        assert it.routes.deadlines == {victim: CONTROL.drain_timeout_s}
        assert it.runtime.graces[victim] == STOP_GRACE_S
        assert it.up() == [kept]


async def test_a_list_that_cannot_be_written_does_not_hold_up_a_stop_for_ever() -> None:
    async with stack(control=replace(CONTROL, drain_timeout_s=0.05, scale_timeout_s=1.0)) as it:
        await it.scaler.scale(2)
        it.writer.failing = dict.fromkeys(("own-1", "own-2"), "its disk is full")
        with pytest.raises(DeadlineError, match="its disk is full"):
            await it.scaler.scale(1)
        assert len(it.runtime.graces) == 1


async def test_the_same_wish_again_changes_nothing() -> None:
    async with stack() as it:
        await it.scaler.scale(2)
        calls = [call for call in it.runtime.calls if call.startswith(("start", "stop"))]
        await it.scaler.scale(2)
        assert calls == [c for c in it.runtime.calls if c.startswith(("start", "stop"))]


@pytest.mark.parametrize("replicas", [0, -1, 10_001])
async def test_impossible_wishes(replicas: int) -> None:
    async with stack() as it:
        with pytest.raises(UsageError, match="1 to 10000"):
            await it.scaler.scale(replicas)
        assert it.scaler.replicas is None
        assert it.wish.saves == 0


async def test_after_the_deadline_it_says_who_lags_and_why() -> None:
    async with stack(control=replace(CONTROL, scale_timeout_s=0.3)) as it:
        it.probe.failing["own-2"] = "connection refused"
        with pytest.raises(DeadlineError) as caught:
            await it.scaler.scale(2)
        assert str(caught.value) == (
            "after 0.3 s, 1 of 2 backends are in rotation; "
            "own-2 is probing: its check failed: connection refused"
        )
        it.probe.failing.clear()
        await eventually(lambda: len(it.up()) == 2)
        await it.scaler.scale(2)


async def test_many_that_lag_are_counted_rather_than_named() -> None:
    async with stack(control=replace(CONTROL, scale_timeout_s=0.3)) as it:
        it.probe.failing = {f"own-{n}": "connection refused" for n in range(1, 9)}
        with pytest.raises(DeadlineError, match="and 3 more"):
            await it.scaler.scale(8)


async def test_a_runtime_that_was_never_listed_is_named_as_the_reason() -> None:
    async with stack(control=replace(CONTROL, scale_timeout_s=0.1)) as it:
        it.runtime.may_subscribe.clear()
        with pytest.raises(DeadlineError, match="has not shown a list yet"):
            await it.scaler.scale(2)


async def test_a_wish_that_was_overtaken_before_it_began_never_begins() -> None:
    async with stack() as it:
        it.runtime.may_subscribe.clear()
        wishes = [asyncio.create_task(it.scaler.scale(n)) for n in (9, 2)]
        await eventually(lambda: it.scaler.replicas == 2)
        it.runtime.may_subscribe.set()
        await wishes[1]
        with pytest.raises(OperationError, match="a newer wish"):
            await wishes[0]
        assert [call for call in it.runtime.calls if call.startswith("start")] == ["start 2"]


async def test_a_failed_start_is_told_and_the_rest_serves_on() -> None:
    async with stack() as it:
        await it.scaler.scale(2)
        it.runtime.start_error = EngineError("no space left on device")
        with pytest.raises(EngineError, match="no space left"):
            await it.scaler.scale(4)
        assert len(it.up()) == 2


async def test_one_that_cannot_be_stopped_serves_on() -> None:
    async with stack() as it:
        await it.scaler.scale(2)
        it.runtime.stop_errors = {
            name: EngineError("the engine says no") for name in it.runtime.instances
        }
        with pytest.raises(EngineError, match="says no"):
            await it.scaler.scale(1)
        await eventually(lambda: len(it.up()) == 2)
        it.runtime.stop_errors.clear()
        await it.scaler.scale(1)
        assert len(it.up()) == 1


async def test_a_newer_wish_wins() -> None:
    async with stack() as it:
        it.probe.failing = {f"own-{n}": "connection refused" for n in range(1, 6)}
        first = asyncio.create_task(it.scaler.scale(5))
        await eventually(lambda: len(it.runtime.instances) == 5)
        second = asyncio.create_task(it.scaler.scale(3))
        third = asyncio.create_task(it.scaler.scale(2))
        for overtaken in (first, second):
            with pytest.raises(OperationError, match="a newer wish came in between: scale to 2"):
                await overtaken
        it.probe.failing.clear()
        await third
        assert len(it.up()) == len(it.runtime.instances) == it.scaler.replicas == 2


async def test_the_same_wish_twice_is_carried_out_once_for_both() -> None:
    async with stack() as it:
        it.runtime.may_start.clear()
        first = asyncio.create_task(it.scaler.scale(2))
        await eventually(lambda: "list" in it.runtime.calls[2:])
        second = asyncio.create_task(it.scaler.scale(2))
        await asyncio.sleep(0)
        it.runtime.may_start.set()
        await asyncio.gather(first, second)
        assert len(it.up()) == len(it.runtime.instances) == 2


async def test_a_caller_that_goes_away_does_not_end_what_it_asked_for() -> None:
    async with stack() as it:
        it.runtime.may_start.clear()
        caller = asyncio.create_task(it.scaler.scale(2))
        await eventually(lambda: "list" in it.runtime.calls[2:])
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        it.runtime.may_start.set()
        await eventually(lambda: len(it.up()) == 2)


async def test_strangers_count_and_the_newest_goes_first() -> None:
    async with stack(running("stranger")) as it:
        await it.scaler.scale(1)
        await it.scaler.scale(3)
        assert len(it.up()) == 3
        assert len(it.runtime.instances) == 3
        await it.scaler.scale(1)
        assert it.up() == ["stranger"]


async def test_own_dead_ones_are_cleared_away_also_by_the_next_controller() -> None:
    dead, alien = running("own-9", phase=Phase.EXITED), running("alien", phase=Phase.EXITED)
    async with stack(dead, alien, wish={"replicas": 2, "own": ["own-9"]}) as it:
        assert it.scaler.replicas == 2
        await it.scaler.scale(1)
        assert set(it.runtime.instances) == {"alien", "own-1"}
        assert it.wish.document == {"replicas": 1, "own": ["own-1"]}


@pytest.mark.parametrize(
    "wish", [None, [], {}, {"replicas": "3"}, {"replicas": 0, "own": 3}, {"own": [1, None]}]
)
async def test_a_broken_wish_is_no_wish(wish: Any) -> None:
    async with stack(wish=wish) as it:
        assert it.scaler.replicas is None
        await it.scaler.scale(1)
