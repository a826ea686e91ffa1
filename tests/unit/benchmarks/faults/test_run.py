"""benchmarks/faults/run.py, on a stack that is made up."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from benchmarks.faults import run as module
from benchmarks.faults.disturbances import Disturbance
from benchmarks.faults.run import Timing, disturb, run, settle
from benchmarks.faults.stacks import Backend
from benchmarks.support import client

from lbctl.errors import OperationError
from tests.support.deadlines import until
from tests.unit.benchmarks.faults.servers import Server, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BRIEF = Timing(connections=4, rate_per_s=500, calm_s=0.1, watch_s=0.3, after_s=0.1)


class MadeUp:
    """Three backends behind a server of the test's."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.done: list[str] = []

    @property
    def port(self) -> int:
        return self.server.port

    def up(self, backends: int) -> None:
        self.done.append(f"up {backends}")

    def down(self) -> None:
        self.done.append("down")

    def backends(self) -> list[Backend]:
        return [Backend(f"backend-{number}", f"10.0.0.{number}") for number in (1, 2, 3)]

    def scale(self, count: int) -> None:
        self.done.append(f"scale {count}")

    def replace_all(self) -> None: ...

    def reload(self) -> None: ...

    def kill_worker(self) -> None: ...

    def kill(self) -> None: ...


@contextlib.asynccontextmanager
async def made_up() -> AsyncIterator[MadeUp]:
    async with serving(backends=3) as server:
        yield MadeUp(server)


def disturbance(behaviour: str) -> Disturbance:
    """From it on the server behaves like this."""

    def act(stack: object, victim: str) -> None:
        assert isinstance(stack, MadeUp)
        stack.done.append(f"disturb {victim}")
        stack.server.behaviour = behaviour

    return Disturbance("one", "a disturbance", act, backends=3)


async def test_a_disturbance_that_costs_nothing() -> None:
    async with made_up() as stack:
        found = await run(stack, disturbance("good"), BRIEF)
    assert stack.done == ["up 3", "disturb backend-1", "down"]
    assert found.lost == 0
    assert found.requests > 50


async def test_what_fails_after_it_is_counted() -> None:
    async with made_up() as stack:
        found = await run(stack, disturbance("502"), BRIEF)
    assert found.failed["502"] > 50
    assert found.unsettled
    assert found.longest_gap_s == pytest.approx(found.watched_s, abs=0.1)


async def test_hung_clients_are_counted_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.5)
    async with made_up() as stack:
        found = await run(stack, disturbance("hung"), BRIEF)
    assert found.hung == BRIEF.connections


async def test_a_stack_that_fails_in_calm_says_nothing_of_the_disturbance() -> None:
    async with made_up() as stack:
        stack.server.behaviour = "502"
        with pytest.raises(OperationError, match="requests failed before it: 502"):
            await disturb(stack, disturbance("good"), BRIEF)
    assert stack.done == []


async def test_a_backend_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTLE_S", 0.2)
    async with made_up() as stack:
        await settle(stack.port, 3)
        with pytest.raises(OperationError, match="3 of 4 backends answer"):
            await settle(stack.port, 4)


async def test_a_stack_that_does_not_start_is_removed() -> None:
    class Broken(MadeUp):
        def up(self, backends: int) -> None:
            raise OperationError(f"no {backends} backends")

    async with serving() as server:
        stack = Broken(server)
        with pytest.raises(OperationError, match="no 3 backends"):
            await run(stack, disturbance("good"), BRIEF)
    assert stack.done == ["down"]


async def test_load_goes_on_while_a_disturbance_takes_its_time() -> None:
    """A docker command blocks its thread, not the clients."""

    def act(stack: object, _victim: str) -> None:
        assert isinstance(stack, MadeUp)
        before = stack.server.answered
        until(lambda: stack.server.answered >= before + 50)

    async with made_up() as stack:
        found = await run(stack, Disturbance("slow", "slow", act, backends=3), BRIEF)
    assert found.lost == 0
