"""What the guard counted is asked for, kept, and never goes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from lbctl.control import guarding
from lbctl.control.guarding import keep_count
from lbctl.errors import EngineUnavailableError
from lbctl.model import ControlStats, GuardCounts
from tests.support.deadlines import eventually
from tests.support.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Guard:
    """Says what a test wants; None is away."""

    def __init__(self) -> None:
        self.asked = 0
        self.told: tuple[str, GuardCounts] | None = ("a", GuardCounts(2, {"path": 1}))

    async def counters(self) -> tuple[str, GuardCounts]:
        self.asked += 1
        if self.told is None:
            raise EngineUnavailableError("no guard answers")
        return self.told


@pytest.fixture(autouse=True)
def no_time_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "_INTERVAL_S", 0.001)


async def kept(
    guard: Guard, store: MemoryStore, check: Callable[[ControlStats], bool | Awaitable[bool]]
) -> ControlStats:
    stats = ControlStats()
    keeping = asyncio.create_task(keep_count(guard.counters, store, stats))
    await eventually(lambda: check(stats))
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    return stats


async def test_it_is_saved_when_it_changes_only() -> None:
    guard, store = Guard(), MemoryStore()
    stats = await kept(guard, store, lambda _: guard.asked > 3)
    assert stats.guard == GuardCounts(2, {"path": 1})
    assert store.saves == 1


async def test_a_guard_that_is_away_and_comes_back_anew() -> None:
    guard, store = Guard(), MemoryStore()

    async def through_it(stats: ControlStats) -> bool:
        guard.told = None
        asked = guard.asked
        await eventually(lambda: guard.asked > asked + 1)
        before = stats.guard
        guard.told = ("b", GuardCounts(1, {"path": 1}))
        await eventually(lambda: stats.guard != before)
        return True

    await kept(guard, store, lambda stats: stats.guard == GuardCounts(2, {"path": 1}))
    stats = await kept(guard, store, through_it)
    assert stats.guard == GuardCounts(3, {"path": 2})


async def test_the_next_controller_goes_on_with_it() -> None:
    guard, store = Guard(), MemoryStore()
    await kept(guard, store, lambda stats: stats.guard == GuardCounts(2, {"path": 1}))
    guard.told = None
    asked = guard.asked
    stats = await kept(guard, store, lambda _: guard.asked > asked)
    assert stats.guard == GuardCounts(2, {"path": 1})


async def test_a_file_of_no_use_starts_at_zero() -> None:
    guard = Guard()
    guard.told = None
    stats = await kept(guard, MemoryStore({"x": 1}), lambda _: guard.asked > 0)
    assert stats.guard == GuardCounts()
