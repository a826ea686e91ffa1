"""Scaling, with a runtime in memory and the real discovery, prober and publisher."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from lbctl.control.leaving import STOP_GRACE_S
from lbctl.errors import (
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    OperationError,
    UsageError,
)
from lbctl.model import Phase, State
from tests.support.control import CONTROL, controlled
from tests.support.deadlines import eventually
from tests.support.fakes import running


async def test_up_and_down_and_every_list_is_right_at_return() -> None:
    async with controlled() as it:
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
    async with controlled() as it:
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
        assert list(it.routes.deadlines) == [victim]
        assert it.routes.deadlines[victim] <= CONTROL.drain_timeout_s
        assert it.runtime.graces[victim] == STOP_GRACE_S
        assert it.up() == [kept]


async def test_a_list_that_cannot_be_written_does_not_hold_up_a_stop_for_ever() -> None:
    async with controlled(
        control=replace(CONTROL, drain_timeout_s=0.05, scale_timeout_s=1.0)
    ) as it:
        await it.scaler.scale(2)
        it.writer.failing = dict.fromkeys(("own-1", "own-2"), "its disk is full")
        with pytest.raises(DeadlineError, match="its disk is full"):
            await it.scaler.scale(1)
        assert len(it.runtime.graces) == 1


async def test_the_same_wish_again_changes_nothing() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        calls = [call for call in it.runtime.calls if call.startswith(("start", "stop"))]
        await it.scaler.scale(2)
        assert calls == [c for c in it.runtime.calls if c.startswith(("start", "stop"))]


@pytest.mark.parametrize("replicas", [0, -1, 10_001])
async def test_impossible_wishes(replicas: int) -> None:
    async with controlled() as it:
        with pytest.raises(UsageError, match="1 to 10000"):
            await it.scaler.scale(replicas)
        assert it.scaler.replicas is None
        assert it.wish.saves == 0


async def test_after_the_deadline_it_says_who_lags_and_why() -> None:
    async with controlled(control=replace(CONTROL, scale_timeout_s=0.3)) as it:
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
    async with controlled(control=replace(CONTROL, scale_timeout_s=0.3)) as it:
        it.probe.failing = {f"own-{n}": "connection refused" for n in range(1, 9)}
        with pytest.raises(DeadlineError, match="and 3 more"):
            await it.scaler.scale(8)


async def test_a_runtime_that_was_never_listed_is_named_as_the_reason() -> None:
    async with controlled(control=replace(CONTROL, scale_timeout_s=0.1)) as it:
        it.runtime.may_subscribe.clear()
        with pytest.raises(DeadlineError, match="has not shown a list yet"):
            await it.scaler.scale(2)


async def test_one_that_cannot_be_listed_says_so_at_once_and_is_scaled_when_it_can_be() -> None:
    async with controlled() as it:
        it.runtime.may_subscribe.clear()
        it.runtime.list_error = EngineUnavailableError("no guard answers")
        with pytest.raises(EngineUnavailableError, match="no guard answers"):
            await it.scaler.scale(2)
        assert it.up() == []
        it.runtime.list_error = None
        it.runtime.may_subscribe.set()
        await eventually(lambda: len(it.up()) == 2)


async def test_a_wish_that_was_overtaken_before_it_began_never_begins() -> None:
    async with controlled() as it:
        it.runtime.may_subscribe.clear()
        wishes = [asyncio.create_task(it.scaler.scale(n)) for n in (9, 2)]
        await eventually(lambda: it.scaler.replicas == 2)
        it.runtime.may_subscribe.set()
        await wishes[1]
        with pytest.raises(OperationError, match="a newer wish"):
            await wishes[0]
        assert [call for call in it.runtime.calls if call.startswith("start")] == ["start 2"]


async def test_a_failed_start_is_told_and_the_rest_serves_on() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        it.runtime.start_error = EngineError("no space left on device")
        with pytest.raises(EngineError, match="no space left"):
            await it.scaler.scale(4)
        assert len(it.up()) == 2


async def test_one_that_cannot_be_stopped_serves_on() -> None:
    async with controlled() as it:
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
    async with controlled() as it:
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
    async with controlled() as it:
        it.runtime.may_start.clear()
        first = asyncio.create_task(it.scaler.scale(2))
        await eventually(lambda: "list" in it.runtime.calls[2:])
        second = asyncio.create_task(it.scaler.scale(2))
        await asyncio.sleep(0)
        it.runtime.may_start.set()
        await asyncio.gather(first, second)
        assert len(it.up()) == len(it.runtime.instances) == 2


async def test_a_caller_that_goes_away_does_not_end_what_it_asked_for() -> None:
    async with controlled() as it:
        it.runtime.may_start.clear()
        caller = asyncio.create_task(it.scaler.scale(2))
        await eventually(lambda: "list" in it.runtime.calls[2:])
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        it.runtime.may_start.set()
        await eventually(lambda: len(it.up()) == 2)


async def test_strangers_count_and_the_newest_goes_first() -> None:
    async with controlled(running("stranger")) as it:
        await it.scaler.scale(1)
        await it.scaler.scale(3)
        assert len(it.up()) == 3
        assert len(it.runtime.instances) == 3
        await it.scaler.scale(1)
        assert it.up() == ["stranger"]


async def test_own_dead_ones_are_cleared_away_also_by_the_next_controller() -> None:
    dead = running("own-9", phase=Phase.EXITED, revision=1)
    alien = running("alien", phase=Phase.EXITED)
    async with controlled(dead, alien) as it:
        await it.scaler.scale(1)
        assert set(it.runtime.instances) == {"alien", "own-1"}
    async with controlled(*it.runtime.instances.values(), wish=it.wish.document) as it:
        assert it.scaler.replicas == 1


@pytest.mark.parametrize("wished", [1, 2])
async def test_the_next_controller_goes_on_with_what_was_interrupted(wished: int) -> None:
    async with controlled() as it:
        await it.scaler.scale(3)
    document = it.wish.document | {"replicas": wished, "reached": False}
    async with controlled(*it.runtime.instances.values(), wish=document) as it:
        await eventually(lambda: len(it.up()) == wished)
        await eventually(lambda: it.wish.document["reached"])


async def test_a_number_that_was_reached_is_left_to_healing() -> None:
    async with controlled() as it:
        await it.scaler.scale(1)
    stranger = running("stranger")
    async with controlled(*it.runtime.instances.values(), stranger, wish=it.wish.document) as it:
        await eventually(lambda: len(it.up()) == 2)
        await it.scaler.scale(2)  # else it might only not have come so far yet
        assert it.up() == ["own-1", "stranger"]


@pytest.mark.parametrize(
    "wish", [None, [], {}, {"replicas": "3"}, {"replicas": 0, "drained": 3}, {"drained": [1, None]}]
)
async def test_a_broken_wish_is_no_wish(wish: Any) -> None:
    async with controlled(wish=wish) as it:
        assert it.scaler.replicas is None
        await it.scaler.scale(1)


async def test_who_lags_says_its_last_words() -> None:
    async with controlled(control=replace(CONTROL, scale_timeout_s=0.3)) as it:
        it.probe.failing["own-1"] = "connection refused"
        it.runtime.said["own-1"] = ["bind() failed", "still could not bind()"]
        with pytest.raises(DeadlineError) as caught:
            await it.scaler.scale(1)
        assert str(caught.value).splitlines()[1:] == [
            "own-1 said last:", "    bind() failed", "    still could not bind()",
        ]  # fmt: skip


# By hand


async def test_drained_is_out_of_routes_and_lists_and_runs_on() -> None:
    async with controlled() as it:
        await it.scaler.scale(3)
        await it.scaler.drain("own-2")
        assert it.up() == ["own-1", "own-3"]
        assert sorted(it.routes.routed) == ["own-1", "own-3"]
        assert it.writer.ips("own-1") == it.writer.ips("own-3") == ["10.0.1.1", "10.0.1.3"]
        assert "own-2" in it.routes.deadlines  # its requests were waited for
        assert "own-2" in it.runtime.instances
        (row,) = [row for row in it.reconciler.backends() if row.name == "own-2"]
        assert row.state is State.DRAINING
        assert row.reason.startswith("drained by hand at 2")
        await it.scaler.drain("own-2")  # again: nothing new
        assert [r for r in it.reconciler.backends() if r.name == "own-2"] == [row]
        await it.scaler.undrain("own-2")
        assert it.up() == ["own-1", "own-2", "own-3"]
        await it.scaler.undrain("own-2")


async def test_the_next_controller_keeps_it_out() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        await it.scaler.drain("own-1")
        (before,) = [row.reason for row in it.reconciler.backends() if row.name == "own-1"]
    async with controlled(*it.runtime.instances.values(), wish=it.wish.document) as it:
        await eventually(lambda: it.up() == ["own-2"])
        (row,) = [row for row in it.reconciler.backends() if row.name == "own-1"]
        assert (row.state, row.reason) == (State.DRAINING, before)
        assert all("own-1" not in [b.name for b in s.routes] for s in it.routes.snapshots)
        await it.scaler.undrain("own-1")
        assert it.up() == ["own-1", "own-2"]
        assert it.wish.document["drained"] == {}


async def test_while_nobody_tells_who_is_there_a_drain_forgets_no_other() -> None:
    """The one that was drained before is in no saved list: it is not gone for that."""
    async with controlled() as it:
        await it.scaler.scale(3)
        await it.scaler.drain("own-1")
    before = {"wish": it.wish.document, "saved": it.saved.document}
    async with controlled(*it.runtime.instances.values(), **before) as it:
        it.runtime.may_subscribe.clear()
        it.reconciler.presume()
        await it.scaler.drain("own-2")
        assert set(it.wish.document["drained"]) == {"own-1", "own-2"}
        it.runtime.may_subscribe.set()
        await eventually(lambda: it.reconciler.observed)
        assert it.up() == ["own-3"]


async def test_the_last_one_in_rotation_is_not_drained() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        drains = await asyncio.gather(
            it.scaler.drain("own-1"), it.scaler.drain("own-2"), return_exceptions=True
        )
        assert drains[0] is None
        assert isinstance(drains[1], OperationError)
        assert "nobody would answer" in str(drains[1])
        assert it.up() == ["own-2"]


async def test_what_cannot_be_drained() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        with pytest.raises(OperationError, match="no backend has the id nobody"):
            await it.scaler.drain("nobody")
        gate = asyncio.Event()
        it.writer.gates = {"own-1": gate, "own-2": gate}
        scaling = asyncio.create_task(it.scaler.scale(1))
        await eventually(lambda: len(it.up()) == 1)
        (leaving,) = {"own-1", "own-2"} - set(it.up())
        with pytest.raises(OperationError, match="leaves already"):
            await it.scaler.drain(leaving)
        gate.set()
        await scaling


async def test_let_in_again_but_not_well_is_no_error() -> None:
    async with controlled(control=replace(CONTROL, drain_timeout_s=0.1)) as it:
        await it.scaler.scale(2)
        await it.scaler.drain("own-1")
        it.writer.failing["own-1"] = "its disk is full"
        await it.scaler.undrain("own-1")
        assert it.up() == ["own-2"]


async def test_one_that_is_drained_counts_and_is_the_first_to_leave() -> None:
    async with controlled() as it:
        await it.scaler.scale(3)
        await it.scaler.drain("own-1")
        await it.scaler.scale(3)
        assert len(it.runtime.instances) == 3
        await it.scaler.scale(2)
        assert it.up() == ["own-2", "own-3"]
        assert set(it.runtime.instances) == {"own-2", "own-3"}
        assert it.wish.document["drained"] == {}


async def test_who_is_gone_is_not_out_by_hand_for_ever() -> None:
    async with controlled() as it:
        await it.scaler.scale(3)
        await it.scaler.drain("own-1")
        del it.runtime.instances["own-1"]
        it.runtime.emit("destroy", "own-1")
        await eventually(lambda: len(it.reconciler.backends()) == 2)
        await it.scaler.drain("own-2")
        assert list(it.wish.document["drained"]) == ["own-2"]
