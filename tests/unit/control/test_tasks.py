from __future__ import annotations

import asyncio

import pytest

from lbctl.control.tasks import Tasks, first_of, woken


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


async def test_the_first_ends_the_rest_and_says_what_it_raised() -> None:
    ended: list[str] = []

    async def job(name: str, error: Exception | None = None, *, waits: bool = False) -> None:
        try:
            if waits:
                await asyncio.Event().wait()
            if error is not None:
                raise error
        finally:
            ended.append(name)

    await first_of(job("first"), job("second", waits=True))
    assert ended == ["first", "second"]
    with pytest.raises(RuntimeError, match="a fault"):
        await first_of(job("third", waits=True), job("fourth", RuntimeError("a fault")))
    assert ended[2:] == ["fourth", "third"]
    whole = asyncio.ensure_future(first_of(job("fifth", waits=True), job("sixth", waits=True)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    assert sorted(ended[4:]) == ["fifth", "sixth"]
