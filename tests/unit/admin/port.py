"""An admin port on a loop in a thread: asked from outside, with fakes behind it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from tests.support.deadlines import scaled
from tests.unit.admin.test_api import Admin

if TYPE_CHECKING:
    from collections.abc import Callable


class Port:
    """Serves until `close`. The fakes are touched on its own loop only: see `do`."""

    def __init__(self, make: Callable[[], Admin] = Admin) -> None:
        self.url = ""
        self._make = make
        self.admin: Admin
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(scaled(10))

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self.admin = self._make()
        async with self.admin.served():
            self.url = str(self.admin.session._base_url).rstrip("/")
            self._ready.set()
            await self._end.wait()

    def do(self, change: Callable[[Admin], Any]) -> Any:
        """Call it with the fakes, between two beats."""

        async def call() -> Any:
            return change(self.admin)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(scaled(10))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
