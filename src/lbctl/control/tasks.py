"""Background tasks that cannot die unseen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Tasks:
    """Tasks of one owner. The first error that escapes one of them is kept for the owner to
    raise: such an error is a fault of the program, and a control plane that goes on without
    one of its limbs looks healthy and is not.
    """

    def __init__(self, on_failure: Callable[[], None]) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: BaseException | None = None
        self._on_failure = on_failure

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task; cancelling it is how it ends early."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def raise_failure(self) -> None:
        """Raise the first error that escaped a task, if any did."""
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Cancel all that run, and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and self._failure is None:
            self._failure = error
            self._on_failure()


async def woken(event: asyncio.Event, within_s: float | None) -> bool:
    """Wait for the event, at most so long (None: for ever); clears it. False: time is up."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True


async def first_of(*jobs: Coroutine[Any, Any, Any]) -> None:
    """Until one of them ends; raises what it raised. The others are cancelled, and have ended."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
