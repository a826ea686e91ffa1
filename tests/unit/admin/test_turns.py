"""Questions that wait for their turn, and clients that do not wait for the answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

import pytest

from lbctl.admin.turns import WAITING
from tests.support.deadlines import eventually, scaled
from tests.unit.admin.fakes import FakeJournal
from tests.unit.admin.test_api import Admin
from tests.unit.admin.test_door import Client, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

    from lbctl.core.history import Listed, Record, Span

T = TypeVar("T")

HISTORY, EVENTS = "/api/v1/history", "/api/v1/events?follow=0"
BUSY = f"{WAITING + 1} questions are under way already: ask again in a second"


class SlowJournal(FakeJournal):
    """Answers, or settles, when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.settles = asyncio.Event()
        self.settles.set()
        self.asking = 0
        self.most = 0

    async def settled(self, within_s: float) -> None:
        await super().settled(within_s)
        await self.settles.wait()

    async def lists(self, span: Span) -> Sequence[Listed]:
        return await self._slowly(super().lists(span))

    async def records(self, span: Span) -> Sequence[Record]:
        return await self._slowly(super().records(span))

    async def _slowly(self, answer: Awaitable[T]) -> T:
        self.asking += 1
        self.most = max(self.most, self.asking)
        try:
            found = await answer
            await self.gate.wait()
            return found
        finally:
            self.asking -= 1


class Slow(Admin):
    def __init__(self) -> None:
        super().__init__()
        self.slow = SlowJournal()
        self.server._past._journal = self.slow

    @property
    def turns(self) -> int:
        return len(self.server._past._turns)


@pytest.fixture
async def slow() -> AsyncIterator[Slow]:
    admin = Slow()
    async with admin.served():
        yield admin


async def asked(stack: contextlib.AsyncExitStack, admin: Admin, path: str = HISTORY) -> Client:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    return await stack.enter_async_context(connected(admin, head))


@pytest.mark.parametrize("path", [HISTORY, EVENTS])
async def test_one_at_a_time_and_a_few_wait(slow: Slow, path: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await asked(stack, slow, path) for _ in range(WAITING + 1)]
        await eventually(lambda: slow.turns == WAITING + 1)
        for full in (HISTORY, EVENTS, "/api/v1/events?since=5m"):
            status, body = await asyncio.wait_for(slow.ask("GET", full), scaled(5))
            assert (status, slow.headers["Retry-After"]) == (503, "1")
            assert body["error"].endswith(BUSY)
        slow.slow.gate.set()
        for client in clients:
            assert (await client.rest()).startswith(b"HTTP/1.1 200 OK")
    assert slow.slow.most == 1
    assert slow.turns == 0


async def test_whoever_leaves_takes_the_question_along(slow: Slow) -> None:
    for _ in range(3):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(WAITING + 1):
                await asked(stack, slow)
            await eventually(lambda: slow.turns == WAITING + 1)
        await eventually(lambda: slow.turns == 1)  # which was asked already
        assert len(slow.slow.asked) == 1
        slow.slow.gate.set()
        await eventually(lambda: slow.turns == 0)
        slow.slow.gate.clear()
        slow.slow.asked.clear()
    slow.slow.gate.set()
    assert (await slow.ask("GET", HISTORY))[0] == 200


@pytest.mark.parametrize("path", [HISTORY, "/api/v1/events"])
async def test_whoever_leaves_while_the_disk_hangs_leaves_nothing(slow: Slow, path: str) -> None:
    slow.slow.settles.clear()
    before = len(asyncio.all_tasks())
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(WAITING):
            await asked(stack, slow, path)
        await eventually(lambda: slow.slow.settlings == WAITING)
    await eventually(lambda: len(asyncio.all_tasks()) <= before)
    assert slow.turns == 0
    assert slow.slow.asked == []


async def test_a_stream_that_knows_where_it_begins_needs_no_turn(slow: Slow) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(WAITING + 1):
            await asked(stack, slow)
        await eventually(lambda: slow.turns == WAITING + 1)
        for query in ("", "?after=0"):
            async with slow.session.get("/api/v1/events" + query) as answer:
                assert answer.status == 200
                block = answer.content.readuntil(b"\n\n")
                assert await asyncio.wait_for(block, scaled(5)) == b"retry: 1000\n\n"
        slow.slow.gate.set()
