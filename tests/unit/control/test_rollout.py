"""Rollouts, with a runtime in memory and the real reconciler, prober, publisher and scaler."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lbctl.errors import EngineError, EngineUnavailableError, ImageError, OperationError, UsageError
from lbctl.model import Phase, RolloutState, State
from tests.support.control import NOT_HEALING, controlled
from tests.support.deadlines import eventually, scaled
from tests.support.fakes import running

if TYPE_CHECKING:
    from tests.support.control import Harness


async def end_of(it: Harness) -> RolloutState:
    """Wait for the end of the rollout; returns which one."""
    await eventually(lambda: it.scaler.rollout is not None and not it.scaler.rollout.under_way)
    assert it.scaler.rollout is not None
    return it.scaler.rollout.state


def images(it: Harness) -> Counter[str]:
    return Counter(instance.image for instance in it.runtime.instances.values())


def started(it: Harness) -> list[str]:
    return [call for call in it.runtime.calls if call.startswith("start")]


async def test_every_backend_is_replaced_start_first() -> None:
    async with controlled() as it:
        await it.scaler.scale(3)
        fewest = len(it.routes.routed)
        route = it.routes.route

        def watched(snapshot: object) -> None:
            nonlocal fewest
            route(snapshot)  # type: ignore[arg-type]
            fewest = min(fewest, len(it.routes.routed))

        it.routes.route = watched  # type: ignore[method-assign]
        told = await it.scaler.roll_out("new:2", 1)
        assert (told.state, told.replaced, told.total) == (RolloutState.RUNNING, 0, 3)
        assert await end_of(it) is RolloutState.DONE
        assert images(it) == {"new:2": 3}
        assert it.up() == ["own-4", "own-5", "own-6"]
        assert fewest == 3
        assert started(it) == ["start 3", "start 1", "start 1", "start 1"]
        rollout = it.scaler.rollout
        assert rollout is not None
        assert (rollout.replaced, rollout.message) == (3, "")


async def test_a_batch_comes_together_and_never_more_than_are_left() -> None:
    async with controlled() as it:
        await it.scaler.scale(3)
        await it.scaler.roll_out("new:2", 2)
        assert await end_of(it) is RolloutState.DONE
        assert started(it) == ["start 3", "start 2", "start 1"]


async def test_afterwards_the_new_image_is_what_is_started() -> None:
    async with controlled() as it:
        await it.scaler.scale(1)
        await it.scaler.roll_out("new:2", 1)
        assert await end_of(it) is RolloutState.DONE
        await it.scaler.scale(3)
        assert images(it) == {"new:2": 3}
    async with controlled(*it.runtime.instances.values(), wish=it.wish.document) as it:
        it.runtime._named = 10
        await it.scaler.scale(4)
        assert images(it) == {"new:2": 4}


async def test_settings_that_name_another_image_are_the_newer_word() -> None:
    async with controlled() as it:
        await it.scaler.scale(1)
        await it.scaler.roll_out("new:2", 1)
        await end_of(it)
    async with controlled(wish=it.wish.document, image="settings:3") as it:
        await it.scaler.scale(1)
        assert images(it) == {"settings:3": 1}


async def test_without_an_image_all_are_replaced_by_the_same() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        await it.scaler.roll_out("", 1)
        assert await end_of(it) is RolloutState.DONE
        assert images(it) == {"old:1": 2}
        assert {i.revision for i in it.runtime.instances.values()} == {2}


async def test_strangers_are_not_touched() -> None:
    async with controlled(running("stranger")) as it:
        await it.scaler.scale(3)
        told = await it.scaler.roll_out("new:2", 1)
        assert told.total == 2
        assert await end_of(it) is RolloutState.DONE
        assert images(it) == {"": 1, "new:2": 2}
        assert "stranger" in it.up()


async def test_newcomers_that_are_never_well_leave_and_the_old_ones_serve_on() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        it.probe.failing = {"own-3": "connection refused"}
        it.runtime.said = {"own-3": ["starting", "boom"]}
        await it.scaler.roll_out("bad:2", 1)
        assert await end_of(it) is RolloutState.ROLLED_BACK
        rollout = it.scaler.rollout
        assert rollout is not None
        assert rollout.message == (
            "own-3 did not come into rotation within 0.5 s: "
            "its check failed: connection refused\n    starting\n    boom"
        )
        assert it.up() == ["own-1", "own-2"]
        assert images(it) == {"old:1": 2}
        await it.scaler.scale(3)
        assert images(it) == {"old:1": 3}


async def test_those_that_were_replaced_already_are_brought_back() -> None:
    async with controlled() as it:
        await it.scaler.scale(3)
        it.probe.failing = {"own-5": "answered 500"}
        await it.scaler.roll_out("bad:2", 1)
        assert await end_of(it) is RolloutState.ROLLED_BACK
        assert images(it) == {"old:1": 3}
        assert len(it.up()) == 3


async def test_one_that_exits_at_once_is_not_waited_for_to_the_end() -> None:
    async with controlled(fleet=replace(NOT_HEALING, rollout_timeout_s=0.2)) as it:
        await it.scaler.scale(1)
        it.runtime.phases["bad:2"] = Phase.EXITED
        await it.scaler.roll_out("bad:2", 1)
        assert await end_of(it) is RolloutState.ROLLED_BACK
        assert it.scaler.rollout is not None
        assert it.scaler.rollout.message.startswith("own-2 does not stay up: ")
        assert it.up() == ["own-1"]
        assert images(it) == {"old:1": 1}


async def test_one_in_a_short_life_when_time_is_up_does_not_stay_up() -> None:
    async with controlled(fleet=replace(NOT_HEALING, rollout_timeout_s=scaled(1))) as it:
        await it.scaler.scale(1)
        it.probe.failing = {"own-2": "connection refused"}
        it.runtime.phases["bad:2"] = Phase.EXITED
        await it.scaler.roll_out("bad:2", 1)
        await eventually(lambda: "bad:2" in images(it))
        seen = it.runtime.lists
        await eventually(lambda: it.runtime.lists > seen + 1)
        [bad] = [one for one in it.runtime.instances.values() if one.image == "bad:2"]
        it.runtime.put(replace(bad, phase=Phase.RUNNING))
        assert await end_of(it) is RolloutState.ROLLED_BACK
        assert it.scaler.rollout is not None
        assert it.scaler.rollout.message.startswith("own-2 does not stay up: ")


async def test_an_image_that_is_not_there_costs_nothing() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        it.runtime.start_errors["absent:1"] = ImageError("No such image: absent:1")
        await it.scaler.roll_out("absent:1", 1)
        assert await end_of(it) is RolloutState.ROLLED_BACK
        assert it.scaler.rollout is not None
        assert it.scaler.rollout.message == "No such image: absent:1"
        assert it.up() == ["own-1", "own-2"]


async def test_where_the_old_ones_do_not_come_back_either_it_says_so() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        it.probe.failing = {"own-4": "answered 500", "own-5": "answered 501"}
        await it.scaler.roll_out("bad:2", 1)
        assert await end_of(it) is RolloutState.FAILED
        assert it.scaler.rollout is not None
        first, second = it.scaler.rollout.message.splitlines()
        assert first.startswith("own-4 ")
        assert second.startswith("going back failed too: own-5 ")
        assert len(it.up()) == 2  # own-1 or own-2, and own-3: nobody who serves was taken out


async def test_an_engine_that_is_away_for_a_moment_is_waited_for() -> None:
    async with controlled() as it:
        await it.scaler.scale(1)
        it.runtime.start_errors["new:2"] = EngineUnavailableError("no engine answers")
        await it.scaler.roll_out("new:2", 1)
        await eventually(lambda: started(it) == ["start 1", "start 1"])
        it.runtime.start_errors.clear()
        assert await end_of(it) is RolloutState.DONE


async def test_the_next_controller_goes_on() -> None:
    async with controlled() as it:
        await it.scaler.scale(3)
        it.writer.gates = {"own-5": asyncio.Event()}
        await it.scaler.roll_out("new:2", 1)
        await eventually(lambda: "own-5" in it.runtime.instances)
    assert images(it) == {"old:1": 2, "new:2": 2}
    async with controlled(*it.runtime.instances.values(), wish=it.wish.document) as it:
        it.runtime._named = 10
        assert await end_of(it) is RolloutState.DONE
        assert images(it) == {"new:2": 3}
        assert {"own-4", "own-5"} < set(it.runtime.instances)  # continued, not restarted
        assert len(it.up()) == 3


async def test_the_next_controller_goes_on_going_back() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        it.probe.failing = {"own-4": "answered 500"}
        it.writer.gates = {"own-5": asyncio.Event()}
        await it.scaler.roll_out("bad:2", 1)
        await eventually(lambda: "own-5" in it.runtime.instances)
    async with controlled(*it.runtime.instances.values(), wish=it.wish.document) as it:
        assert await end_of(it) is RolloutState.ROLLED_BACK
        assert images(it) == {"old:1": 2}


async def test_what_is_refused_meanwhile() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        it.runtime.may_start.clear()
        await it.scaler.roll_out("new:2", 1)
        with pytest.raises(OperationError, match="a rollout is under way"):
            await it.scaler.roll_out("new:3", 1)
        with pytest.raises(OperationError, match="a rollout is under way"):
            await it.scaler.scale(5)
        assert it.scaler.replicas == 2
        it.runtime.may_start.set()
        assert await end_of(it) is RolloutState.DONE
        await it.scaler.scale(1)
        await it.scaler.roll_out("new:3", 1)
        assert await end_of(it) is RolloutState.DONE


async def test_it_does_not_wait_for_a_wish_that_cannot_come_true() -> None:
    async with controlled() as it:
        it.probe.failing = {"own-1": "answered 500", "own-2": "answered 500"}
        scaling = asyncio.create_task(it.scaler.scale(2))
        await eventually(lambda: len(it.runtime.instances) == 2)
        await it.scaler.roll_out("good:2", 2)
        with pytest.raises(OperationError, match="a newer wish came in between: a rollout"):
            await scaling
        assert await end_of(it) is RolloutState.DONE
        assert images(it) == {"good:2": 2}


async def test_nonsense() -> None:
    async with controlled() as it:
        await it.scaler.scale(1)
        for batch in (0, 10_001):
            with pytest.raises(UsageError, match="batch"):
                await it.scaler.roll_out("", batch)
        assert it.scaler.rollout is None
    async with controlled(image="") as it:
        with pytest.raises(UsageError, match="not made from images"):
            await it.scaler.roll_out("new:2", 1)
    async with controlled(running("stranger")) as it:
        with pytest.raises(OperationError, match="nothing to roll out"):
            await it.scaler.roll_out("", 1)


async def test_one_that_was_drained_by_hand_is_replaced_too() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        await it.scaler.drain("own-1")
        await it.scaler.roll_out("new:2", 1)
        assert await end_of(it) is RolloutState.DONE
        assert images(it) == {"new:2": 2}
        assert len(it.up()) == 2


async def test_a_newcomer_that_somebody_drains_is_no_failure() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        it.writer.gates = {"own-4": asyncio.Event()}
        await it.scaler.roll_out("new:2", 1)
        await eventually(lambda: "own-4" in it.runtime.instances)
        await it.scaler.drain("own-3")
        it.writer.gates.pop("own-4").set()
        assert await end_of(it) is RolloutState.DONE
        states = {row.name: row.state for row in it.reconciler.backends()}
        assert states == {"own-3": State.DRAINING, "own-4": State.UP}


async def test_one_that_cannot_be_stopped_serves_on() -> None:
    async with controlled() as it:
        await it.scaler.scale(1)
        it.runtime.stop_errors["own-1"] = EngineError("the engine says no")
        await it.scaler.roll_out("new:2", 1)
        assert await end_of(it) is RolloutState.ROLLED_BACK
        assert it.scaler.rollout is not None
        assert it.scaler.rollout.message == "the engine says no"
        assert it.up() == ["own-1"]
