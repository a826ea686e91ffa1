"""benchmarks/faults/load.py: it sees every way in which a server can fail."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from benchmarks.faults.ledger import HUNG
from benchmarks.faults.load import Load
from benchmarks.support import client

from tests.support.cli import free_port
from tests.support.deadlines import eventually
from tests.unit.benchmarks.faults.servers import MISBEHAVIOUR, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def loaded(port: int, connections: int = 4) -> AsyncIterator[Load]:
    """Load within the block, and until its last request has ended."""
    load = Load(port, connections=connections, rate_per_s=1_000)
    running = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        load.stop()
        await running


def failures(load: Load) -> set[str]:
    return {one.failure for one in load.asked if one.failure}


async def test_good_answers_come_on_connections_that_are_kept() -> None:
    async with serving() as server:
        async with loaded(server.port) as load:
            await eventually(lambda: len(load.asked) >= 100)
        assert failures(load) == set()
        assert server.connections == 4
    assert all(one.ended_s >= one.sent_s for one in load.asked)


async def test_a_connection_that_the_server_leaves_between_requests_is_no_failure() -> None:
    async with serving() as server:
        async with loaded(server.port) as load:
            server.behaviour = "last"
            await eventually(lambda: len(load.asked) >= 50)
        assert failures(load) == set()
        assert server.connections >= 50


@pytest.mark.parametrize("behaviour", [*MISBEHAVIOUR, "reset"])
async def test_whatever_is_no_good_answer_is_a_failure_of_its_kind(behaviour: str) -> None:
    async with serving() as server:
        async with loaded(server.port) as load:
            await eventually(lambda: load.asked)
            server.behaviour = behaviour
            await eventually(lambda: len([one for one in load.asked if one.failure]) >= 4)
        assert failures(load) == {behaviour}


async def test_no_answer_in_time_is_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.05)
    async with serving() as server:
        server.behaviour = "hung"
        async with loaded(server.port) as load:
            await eventually(lambda: len(load.asked) >= 8)
        assert failures(load) == {HUNG}


async def test_nobody_there_is_refused() -> None:
    async with loaded(free_port()) as load:
        await eventually(lambda: len(load.asked) >= 8)
    assert failures(load) == {"refused"}


async def test_what_is_under_way_at_the_end_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.2)
    async with serving() as server:
        server.behaviour = "hung"
        async with loaded(server.port, connections=3) as load:
            await eventually(lambda: server.connections == 3)
            assert load.asked == []
        assert [one.failure for one in load.asked] == [HUNG] * 3
