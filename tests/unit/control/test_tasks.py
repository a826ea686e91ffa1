from __future__ import annotations

import asyncio

import pytest

from lbctl.control.tasks import Tasks, woken


async def test_an_error_that_escapes_a_task_is_kept_for_the_owner() -> None:
    failed = asyncio.Event()
    tasks = Tasks(on_failure=failed.set)

    async def faulty() -> None:
        raise RuntimeError("a fault")

    tasks.raise_failure()
    tasks.spawn(faulty())
    await failed.wait()
    with pytest.raises(RuntimeError, match="a fault"):
        tasks.raise_failure()


async def test_close_ends_them_all_and_that_is_no_failure() -> None:
    tasks = Tasks(on_failure=lambda: None)
    never = asyncio.Event()

    async def waits() -> None:
        await never.wait()

    running = [tasks.spawn(waits()) for _ in range(3)]
    await tasks.close()
    assert all(task.cancelled() for task in running)
    tasks.raise_failure()


async def test_woken_by_the_event_or_by_time() -> None:
    event = asyncio.Event()
    assert not await woken(event, 0.01)
    event.set()
    assert await woken(event, None)
    assert not event.is_set()
    event.set()
    assert await woken(event, 0)
