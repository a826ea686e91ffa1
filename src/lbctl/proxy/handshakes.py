"""The handshakes of a worker, worked off by a thread of their own.

One costs a third of a millisecond, with RSA one and a half, and with what a client may choose to
harm us twenty; OpenSSL lets go of the interpreter meanwhile. So a flood of them delays handshakes,
and no request. Whatever the thread works on nobody else touches.

One that has begun holds some 50 KiB, and more where a client wants it so. Past a number of them,
those that come wait with nothing but the bytes of their first message.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from lbctl.proxy.tls import TlsConnection

_log = logging.getLogger("lbctl.proxy")

BEGUN_LIMIT = 1000
_TURN_S = 0.002
_AT_A_TIME = 16


class Handshakes:
    """Raises RuntimeError where there can be no thread: a worker without one is not to serve."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fresh: dict[TlsConnection, None] = {}  # in the order in which they came
        self._begun: set[TlsConnection] = set()
        self._going_on: deque[TlsConnection] = deque()  # those of them that wait for their turn
        self._busy = False
        self._thread = ThreadPoolExecutor(1, "handshakes")
        self._thread.submit(int)  # starts it

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def queue(self, connection: TlsConnection) -> None:
        """Have its handshake begin or go on, when its turn comes."""
        if connection in self._begun:
            self._going_on.append(connection)
        else:
            self._fresh[connection] = None
        self._look()

    def left(self, connection: TlsConnection) -> None:
        """Its handshake is over, in whatever way."""
        self._fresh.pop(connection, None)
        self._begun.discard(connection)
        if self._fresh:
            self._look()

    def _look(self) -> None:
        if not self._busy:
            self._work()

    def _next(self) -> TlsConnection | None:
        if self._going_on:
            return self._going_on.popleft()
        if not self._fresh or len(self._begun) >= BEGUN_LIMIT:
            return None
        connection = next(iter(self._fresh))
        del self._fresh[connection]
        self._begun.add(connection)
        return connection

    def _work(self) -> None:
        batch: list[TlsConnection] = []
        while len(batch) < _AT_A_TIME and (connection := self._next()) is not None:
            if connection.is_closing():
                self._begun.discard(connection)
                continue
            try:
                connection.prepare()
            except Exception as error:  # noqa: BLE001 - no memory, most likely
                self._give_up([connection], error)
            else:
                batch.append(connection)
        self._busy = bool(batch)
        if not batch:
            return
        try:
            working = self._loop.run_in_executor(self._thread, _shake, batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, others come after these
            self._busy = False
            self._give_up(batch, error)
            self._loop.call_soon(self._look)
        else:
            working.add_done_callback(partial(self._shaken, batch))

    def _shaken(
        self, batch: list[TlsConnection], working: asyncio.Future[list[Exception | None]]
    ) -> None:
        self._busy = False
        try:
            outcomes = working.result()
        except CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(batch, error)
            self._look()
            return
        self._going_on.extendleft(reversed(batch[len(outcomes) :]))
        self._work()  # at once: the thread need not wait for what follows
        for connection, outcome in zip(batch, outcomes, strict=False):
            self._loop.call_soon(connection.shaken, outcome)

    def _give_up(self, batch: list[TlsConnection], error: Exception) -> None:
        _log.error("%d handshakes were given up: %s", len(batch), type(error).__name__)
        for connection in batch:
            self._begun.discard(connection)
            connection.give_up()


def _shake(batch: list[TlsConnection]) -> list[Exception | None]:
    """Runs in the thread: one step of each, as far as time allows, and how it went."""
    end = perf_counter() + _TURN_S
    outcomes = []
    for connection in batch:
        outcomes.append(connection.shake())
        if perf_counter() > end:
            break
    return outcomes
