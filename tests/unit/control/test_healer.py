"""Healing, with a runtime in memory and the real reconciler, prober, publisher and scaler."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lbctl.errors import EngineError, ImageError
from lbctl.model import HealingState, Phase
from tests.support.control import FLEET, controlled
from tests.support.deadlines import eventually
from tests.support.fakes import running

if TYPE_CHECKING:
    from tests.support.control import Harness


def starts(it: Harness) -> list[str]:
    return [call for call in it.runtime.calls if call.startswith("start")]


def lose(it: Harness, name: str) -> None:
    """Its container is gone, as after `docker rm -f`."""
    del it.runtime.instances[name]
    it.runtime.emit("destroy", name)


async def test_one_that_is_gone_is_replaced() -> None:
    async with controlled(fleet=FLEET) as it:
        await it.scaler.scale(3)
        lose(it, "own-2")
        await eventually(lambda: it.up() == ["own-1", "own-3", "own-4"])
        await eventually(lambda: it.scaler.healing.state is HealingState.IDLE)
        assert starts(it) == ["start 3", "start 1"]


async def test_a_wish_is_kept_by_the_next_controller() -> None:
    async with controlled(fleet=FLEET) as it:
        await it.scaler.scale(2)
    lose(it, "own-1")
    async with controlled(*it.runtime.instances.values(), fleet=FLEET, wish=it.wish.document) as it:
        it.runtime._named = 10
        await eventually(lambda: it.up() == ["own-2", "own-11"])


async def test_one_that_stays_out_leaves_when_its_replacement_is_in_rotation() -> None:
    async with controlled(fleet=FLEET) as it:
        await it.scaler.scale(2)
        gate = it.writer.gates["own-3"] = asyncio.Event()
        it.runtime.put(replace(it.runtime.instances["own-1"], phase=Phase.PAUSED), "pause")
        await eventually(lambda: it.scaler.healing.state is HealingState.REPLACING)
        assert "own-1" in it.runtime.instances
        gate.set()
        await eventually(lambda: set(it.runtime.instances) == {"own-2", "own-3"})
        assert it.up() == ["own-2", "own-3"]


async def test_one_that_comes_back_in_time_is_not_replaced() -> None:
    async with controlled(fleet=replace(FLEET, heal_after_s=60)) as it:
        await it.scaler.scale(1)
        well = it.runtime.instances["own-1"]
        it.runtime.put(replace(well, phase=Phase.EXITED), "die")
        await eventually(lambda: it.scaler.healing.state is HealingState.WAITING)
        it.runtime.put(well)
        await eventually(lambda: it.scaler.healing.state is HealingState.IDLE)
        assert it.up() == ["own-1"]
        assert starts(it) == ["start 1"]


async def test_strangers_are_missed_and_left_alone() -> None:
    stranger = running("stranger")
    async with controlled(stranger, fleet=FLEET) as it:
        await it.scaler.scale(2)
        it.runtime.put(replace(stranger, phase=Phase.EXITED), "die")
        await eventually(lambda: it.up() == ["own-1", "own-2"])
        assert "stranger" in it.runtime.instances


async def test_one_that_was_drained_by_hand_counts_as_there() -> None:
    async with controlled(fleet=FLEET) as it:
        await it.scaler.scale(2)
        await it.scaler.drain("own-1")
        lose(it, "own-2")
        await eventually(lambda: it.up() == ["own-3"])
        await eventually(lambda: it.scaler.healing.state is HealingState.IDLE)
        assert set(it.runtime.instances) == {"own-1", "own-3"}


async def test_newcomers_of_no_use_are_few_and_then_it_gives_up_and_says_why() -> None:
    async with controlled(fleet=FLEET) as it:
        await it.scaler.scale(2)
        it.probe.failing = {f"own-{n}": "answered 500" for n in range(3, 20)}
        it.runtime.said = {"own-5": ["no such user: nginx"]}
        lose(it, "own-1")
        await eventually(lambda: it.scaler.healing.state is HealingState.GAVE_UP, within=15)
        assert starts(it) == ["start 2", *["start 1"] * FLEET.heal_limit]
        assert "own-5 is probing: its check failed: answered 500\n    no such user" in (
            it.scaler.healing.message
        )
        assert set(it.runtime.instances) == {"own-2"}
        it.probe.failing.clear()
        await it.scaler.scale(2)
        assert it.up() == ["own-2", "own-6"]
        await eventually(lambda: it.scaler.healing.state is HealingState.IDLE)


async def test_an_image_that_went_away_is_not_asked_for_for_ever() -> None:
    async with controlled(fleet=FLEET) as it:
        await it.scaler.scale(2)
        it.runtime.start_errors["old:1"] = ImageError("No such image: old:1")
        lose(it, "own-1")
        await eventually(lambda: it.scaler.healing.state is HealingState.GAVE_UP, within=15)
        assert starts(it) == ["start 2", *["start 1"] * FLEET.heal_limit]
        assert "No such image: old:1" in it.scaler.healing.message


async def test_an_engine_that_does_not_answer_has_lost_nothing() -> None:
    async with controlled(fleet=FLEET) as it:
        await it.scaler.scale(2)
        it.runtime.list_error = EngineError("it keeps silent")
        it.runtime.instances.clear()
        it.runtime.emit("destroy")
        lists = it.runtime.lists
        await eventually(lambda: it.runtime.lists > lists + 1)
        assert starts(it) == ["start 2"]
        assert len(it.up()) == 2


@pytest.mark.parametrize("image", ["new:2", ""])
async def test_after_a_rollout_the_new_release_is_what_is_started(image: str) -> None:
    async with controlled(fleet=FLEET) as it:
        await it.scaler.scale(1)
        await it.scaler.roll_out(image, 1)
        await eventually(lambda: set(it.runtime.instances) == {"own-2"})
        lose(it, "own-2")
        await eventually(lambda: it.up() == ["own-3"])
        assert it.runtime.instances["own-3"].image == (image or "old:1")
        assert it.runtime.instances["own-3"].revision == 2


async def test_off_is_off_and_without_a_wish_there_is_nothing_to_heal() -> None:
    async with controlled() as it:
        await it.scaler.scale(1)
        assert it.scaler.healing.state is HealingState.OFF
    async with controlled(running("stranger"), fleet=FLEET) as it:
        await eventually(lambda: it.up() == ["stranger"])
        assert it.scaler.healing.state is HealingState.OFF
        assert "nobody told" in it.scaler.healing.message
        assert starts(it) == []
