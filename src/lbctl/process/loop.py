"""The supervisor's loop: sockets that become ready, and what is to be done later."""

from __future__ import annotations

import heapq
import itertools
import logging
import selectors
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_log = logging.getLogger("lbctl.supervisor")


class Loop:
    """One thread, no asyncio. Nothing that goes wrong in what it calls ends it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def turn(self) -> None:
        """Wait until something is to be done, and do it."""
        timeout = None
        if self._timers:
            timeout = max(0.0, self._timers[0][0] - time.monotonic())
        for key, _ in self._selector.select(timeout):
            self.call(key.data)
        while self._timers and self._timers[0][0] <= time.monotonic():
            self.call(heapq.heappop(self._timers)[2])

    def call(self, action: Callable[[], None]) -> None:
        """Do this now. Whatever it raises is logged, and no more."""
        try:
            action()
        except Exception:  # noqa: BLE001 - whatever it is: all others hang on this process
            _log.exception("this should not happen")

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do this in so many seconds, unless they are forgotten."""
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), action))

    def forget(self) -> None:
        """Do nothing of what was to be done later."""
        self._timers.clear()

    def watch(self, one: socket.socket, events: int, ready: Callable[[], None]) -> None:
        """Call `ready` on these events of the selector; 0: not any more."""
        known = one in self._selector.get_map()
        if events and known:
            self._selector.modify(one, events, ready)
        elif events:
            self._selector.register(one, events, ready)
        elif known:
            self._selector.unregister(one)

    def close(self) -> None:
        """Also for a forked child, which shall not share it."""
        self._selector.close()
