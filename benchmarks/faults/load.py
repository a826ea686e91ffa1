"""Steady load: clients who keep their connections, take turns at an even pace, and ask nothing
twice.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from benchmarks.faults.ledger import HUNG, Asked
from benchmarks.support.client import Connection
from benchmarks.support.strict import NotHttpError, ShortError
from benchmarks.support.traffic import Pace

if TYPE_CHECKING:
    from benchmarks.support.strict import Answer

REQUEST = b"GET /ips.txt HTTP/1.1\r\nHost: faults.test\r\n\r\n"
_OK = 200
SERVED_BY = b"x-served-by"


class Load:
    """`asked` has every request that has ended, in that order; times are the event loop's."""

    def __init__(self, port: int, *, connections: int, rate_per_s: float) -> None:
        self.asked: list[Asked] = []
        self._port = port
        self._connections = connections
        self._pace = Pace(rate_per_s)
        self._stopped = False

    def stop(self) -> None:
        """No request is sent from now on; those under way are waited for."""
        self._stopped = True

    async def run(self) -> None:
        """Until stop(), and then until the last request has ended."""
        async with asyncio.TaskGroup() as clients:
            for _ in range(self._connections):
                clients.create_task(self._take_turns())

    async def _take_turns(self) -> None:
        client = _Client(self._port)
        clock = asyncio.get_running_loop().time
        try:
            while True:
                await self._pace.turn()
                if self._stopped:
                    return
                sent_s = clock()
                failure = await client.ask()
                self.asked.append(Asked(sent_s, clock(), failure))
        finally:
            client.leave()


class _Client:
    """Has one connection, for as long as it is good."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Connection | None = None

    async def ask(self) -> str:
        """One request; returns the kind of its failure, "" for a good answer."""
        try:
            # Like any client: not on a connection that the server is known to have left.
            if self._connection is None or self._connection.ended:
                self.leave()
                self._connection = await Connection.open(self._port)
            self._connection.send(REQUEST)
            answer = await self._connection.answer()
        except (OSError, NotHttpError) as error:
            self.leave()
            return kind_of(error)
        if answer.closes:
            self.leave()
        return verdict(answer)

    def leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def verdict(answer: Answer) -> str:
    """The kind of failure; "" for a good answer."""
    if answer.status != _OK:
        return str(answer.status)
    return "" if SERVED_BY in answer.fields else "of no backend"


def kind_of(error: OSError | NotHttpError) -> str:
    """In the words of the tables."""
    if isinstance(error, TimeoutError):
        return HUNG
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ShortError):
        return "closed"
    if isinstance(error, NotHttpError):
        return "not HTTP"
    return "reset" if isinstance(error, ConnectionError) else type(error).__name__
