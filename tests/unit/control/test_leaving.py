"""The order in which a backend leaves."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from lbctl.control.leaving import STOP_GRACE_S, Leaving
from lbctl.errors import EngineError
from lbctl.model import State
from tests.support.control import CONTROL, Harness, controlled
from tests.support.deadlines import eventually


def leaving(it: Harness, drain_timeout_s: float = 5.0) -> Leaving:
    """One beside the scaler's own."""
    return Leaving(it.runtime, it.reconciler, it.routes, drain_timeout_s, it.reconciler.undrain)


async def test_unrouted_then_unlisted_then_idle_then_stopped() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        lists, idle = asyncio.Event(), asyncio.Event()
        it.writer.gates = {"own-2": lists}
        waited = asyncio.Event()

        async def unrouted(backend_id: str, deadline_s: float) -> int:
            assert (backend_id, deadline_s > 0) == ("own-1", True)
            waited.set()
            await idle.wait()
            return 0

        it.routes.unrouted = unrouted  # type: ignore[method-assign]
        going = asyncio.create_task(leaving(it).leave(["own-1"], "why"))
        await asyncio.sleep(0)
        assert it.routes.routed == ["own-2"]  # in the moment it is chosen
        assert not waited.is_set()
        lists.set()
        await eventually(waited.is_set)
        assert it.writer.ips("own-2") == ["10.0.1.2"]
        assert it.runtime.graces == {}
        idle.set()
        await going
        assert it.runtime.graces == {"own-1": STOP_GRACE_S}


async def test_one_deadline_for_lists_and_requests_together() -> None:
    async with controlled(control=replace(CONTROL, drain_timeout_s=5)) as it:
        await it.scaler.scale(2)
        it.writer.gates = {"own-2": asyncio.Event()}  # never
        it.routes.busy["own-1"] = 1
        await leaving(it, drain_timeout_s=0.1).leave(["own-1"], "why")
        assert it.routes.deadlines["own-1"] < 0.1  # what the lists have left of it
        assert set(it.runtime.instances) == {"own-2"}


async def test_who_is_retired_runs_on() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        await leaving(it).retire(["own-1"], "why")
        assert it.routes.routed == ["own-2"]
        assert set(it.runtime.instances) == {"own-1", "own-2"}


async def test_one_that_cannot_be_stopped_holds_up_none_of_the_others_and_serves_on() -> None:
    async with controlled() as it:
        await it.scaler.scale(3)
        it.runtime.stop_errors["own-1"] = EngineError("the engine says no")
        with pytest.raises(EngineError, match="says no"):
            await leaving(it).leave(["own-1", "own-2"], "why")
        assert set(it.runtime.instances) == {"own-1", "own-3"}
        await eventually(lambda: it.up() == ["own-1", "own-3"])
        states = [row.state for row in it.reconciler.backends()]
        assert states == [State.UP, State.UP]
