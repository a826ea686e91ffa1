"""Discovery: subscribe, then list; hints, losses and lies."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.config import Control
from lbctl.control import discovery as module
from lbctl.control.discovery import Discovery
from lbctl.errors import EngineError
from lbctl.model import ControlStats, Instance, Phase
from tests.support.deadlines import eventually
from tests.support.fakes import FakeRuntime, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import pytest

CONTROL = Control(
    resync_interval_s=60.0, reconnect_min_s=0.01, reconnect_max_s=0.05, stopping_period_s=60.0
)


class Deliveries:
    def __init__(self) -> None:
        self.lists: list[dict[str, Phase]] = []

    def __call__(self, instances: Sequence[Instance]) -> None:
        self.lists.append({instance.id: instance.phase for instance in instances})

    @property
    def last(self) -> dict[str, Phase]:
        return self.lists[-1] if self.lists else {}


class Running:
    def __init__(self, runtime: FakeRuntime, control: Control) -> None:
        self.stats = ControlStats()
        self.deliveries = Deliveries()
        self.discovery = Discovery(
            runtime, control, self.stats, self.deliveries, chance=lambda: 0.0
        )


@asynccontextmanager
async def discovering(runtime: FakeRuntime, control: Control = CONTROL) -> AsyncIterator[Running]:
    it = Running(runtime, control)
    task = asyncio.create_task(it.discovery.run())
    try:
        yield it
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_subscribes_then_lists() -> None:
    runtime = FakeRuntime(running("a"))
    runtime.may_subscribe.clear()
    async with discovering(runtime) as it:
        await eventually(lambda: runtime.watches)
        assert runtime.lists == 0
        runtime.may_subscribe.set()
        await eventually(lambda: it.deliveries.last == {"a": Phase.RUNNING})
        assert runtime.calls[:2] == ["subscribed", "list"]
        assert it.stats.discovery_synced_monotonic_s is not None


async def test_why_nothing_is_seen_is_told_until_a_list_comes() -> None:
    runtime = FakeRuntime(running("a"))
    runtime.list_error = EngineError("no guard answers\nit starts again by itself")
    async with discovering(runtime) as it:
        await eventually(lambda: it.stats.discovery_problem == "no guard answers")
        assert it.deliveries.lists == []
        runtime.list_error = None
        await eventually(lambda: it.deliveries.last)
        assert it.stats.discovery_problem == ""


async def test_a_list_does_not_hide_that_no_events_come() -> None:
    runtime = FakeRuntime(running("a"))
    async with discovering(runtime) as it:
        await eventually(lambda: it.deliveries.last)
        runtime.may_subscribe.clear()
        runtime.cut()
        await eventually(lambda: it.stats.discovery_problem == "it ended")
        lists = runtime.lists
        it.discovery.look()
        await eventually(lambda: runtime.lists > lists and len(it.deliveries.lists) > lists)
        assert it.stats.discovery_problem == "it ended"
        runtime.may_subscribe.set()
        await eventually(lambda: it.stats.discovery_problem == "")


async def test_a_hint_brings_a_new_list_and_is_counted() -> None:
    runtime = FakeRuntime(running("a"))
    async with discovering(runtime) as it:
        await eventually(lambda: it.deliveries.last)
        runtime.put(running("b"))
        await eventually(lambda: set(it.deliveries.last) == {"a", "b"})
        assert dict(it.stats.events) == {"start": 1}


async def test_many_hints_are_one_list_running_and_one_due() -> None:
    runtime = FakeRuntime(running("a"))
    async with discovering(runtime) as it:
        await eventually(lambda: it.deliveries.last)
        runtime.may_list.clear()
        runtime.emit("start", "x")
        await eventually(lambda: runtime.lists == 2)  # this one hangs
        for number in range(100):
            runtime.emit("start", f"y{number}")
        await eventually(lambda: it.stats.events["start"] == 101)
        runtime.instances["b"] = running("b")
        runtime.may_list.set()
        await eventually(lambda: "b" in it.deliveries.last)
        assert runtime.lists <= 3 + len(module.SETTLE_S)


async def test_one_told_to_stop_is_stopping_before_any_list_says_so() -> None:
    runtime = FakeRuntime(running("a"), running("b"))
    async with discovering(runtime) as it:
        await eventually(lambda: it.deliveries.last)
        runtime.may_list.clear()
        runtime.emit("kill", "a", leaving=True)
        await eventually(lambda: it.deliveries.last == {"a": Phase.STOPPING, "b": Phase.RUNNING})
        runtime.may_list.set()
        await eventually(lambda: runtime.lists >= 2)
        assert it.deliveries.last["a"] is Phase.STOPPING  # the list still says it runs
        runtime.instances["a"] = running("a", phase=Phase.EXITED)
        runtime.emit("die", "a")
        await eventually(lambda: it.deliveries.last["a"] is Phase.EXITED)


async def test_one_that_died_is_out_even_if_the_list_is_late() -> None:
    runtime = FakeRuntime(running("a"))
    async with discovering(runtime) as it:
        await eventually(lambda: it.deliveries.last)
        runtime.emit("die", "a")
        await eventually(lambda: it.deliveries.last == {"a": Phase.EXITED})
        # No further event comes: the look after the burst finds it.
        runtime.instances.clear()
        await eventually(lambda: it.deliveries.lists[-1] == {})


async def test_a_list_that_lags_behind_its_hint_is_soon_made_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SETTLE_S", (0.2, 60.0))
    runtime = FakeRuntime(running("a"))
    async with discovering(runtime) as it:
        await eventually(lambda: it.deliveries.last)
        runtime.emit("pause", "a")
        await eventually(lambda: runtime.lists == 2)
        runtime.instances["a"] = running("a", phase=Phase.PAUSED)
        await eventually(lambda: it.deliveries.last == {"a": Phase.PAUSED})


async def test_one_that_starts_again_runs_again() -> None:
    runtime = FakeRuntime(running("a"))
    async with discovering(runtime) as it:
        await eventually(lambda: it.deliveries.last)
        runtime.emit("die", "a")
        runtime.emit("start", "a")
        await eventually(lambda: len(it.deliveries.lists) >= 3)
        phases = [seen["a"] for seen in it.deliveries.lists]
        assert phases[:2] == [Phase.RUNNING, Phase.EXITED]  # so that it counts as a new one
        assert phases[-1] is Phase.RUNNING


async def test_one_told_to_stop_that_runs_on_comes_back() -> None:
    runtime = FakeRuntime(running("a"))
    async with discovering(runtime, replace(CONTROL, stopping_period_s=0.2)) as it:
        await eventually(lambda: it.deliveries.last)
        runtime.emit("kill", "a", leaving=True)
        await eventually(lambda: it.deliveries.last["a"] is Phase.STOPPING)
        await eventually(lambda: it.deliveries.last["a"] is Phase.RUNNING)


async def test_a_lost_stream_is_opened_again_and_the_list_taken_again() -> None:
    runtime = FakeRuntime(running("a"))
    async with discovering(runtime) as it:
        await eventually(lambda: it.deliveries.last)
        runtime.instances["b"] = running("b")  # its event was lost
        runtime.cut()
        await eventually(lambda: "b" in it.deliveries.last)
        assert runtime.watches == 2


async def test_a_list_that_fails_is_tried_again_and_the_truth_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runtime = FakeRuntime(running("a"))
    async with discovering(runtime) as it:
        await eventually(lambda: it.deliveries.last)
        synced = it.stats.discovery_synced_monotonic_s
        runtime.list_error = EngineError("the engine is tired")
        runtime.put(running("b"))
        await eventually(lambda: runtime.lists >= 4)
        assert it.deliveries.last == {"a": Phase.RUNNING}
        assert it.stats.discovery_synced_monotonic_s == synced
        runtime.list_error = None
        await eventually(lambda: "b" in it.deliveries.last)
    assert sum("the engine is tired" in line for line in caplog.messages) == 1


async def test_an_engine_that_hangs_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIST_TIMEOUT_S", 0.05)
    runtime = FakeRuntime(running("a"))
    runtime.may_list.clear()
    async with discovering(runtime) as it:
        await eventually(lambda: runtime.lists >= 2)
        runtime.may_list.set()
        await eventually(lambda: it.deliveries.last)


async def test_without_any_event_it_looks_every_interval() -> None:
    runtime = FakeRuntime()
    async with discovering(runtime, replace(CONTROL, resync_interval_s=0.05)) as it:
        await eventually(lambda: runtime.lists)
        runtime.instances["a"] = running("a")
        await eventually(lambda: it.deliveries.last == {"a": Phase.RUNNING})


async def test_look_asks_for_a_list() -> None:
    runtime = FakeRuntime()
    async with discovering(runtime) as it:
        await eventually(lambda: len(it.deliveries.lists) == 1)
        it.discovery.look()
        await eventually(lambda: len(it.deliveries.lists) == 2)
