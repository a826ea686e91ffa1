"""A steady load on one address: a real HTTP/1.1 client with keep-alive, and without retries.

What fails has failed: a refused or broken connection, an answer that is cut short, late, not
2xx or 3xx, or not the list. A connection that is closed while nothing is asked on it is no
failure (RFC 9112, 9.5), nor is one whose answer says `Connection: close`: the next request
opens another.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from lbctl.verify.answers import Answer, AnswerError, AnswerReader, Kind, check_list
from lbctl.verify.tally import Failure, Tally

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from lbctl.verify.tally import Window

ANSWER_TIMEOUT_S: Final = 5.0  # connecting included

_ROUND: Final = (
    (b"GET", b"/"), (b"GET", b"/ips.txt"), (b"GET", b"/"), (b"HEAD", b"/ips.txt"),
    (b"GET", b"/ips.txt"), (b"GET", b"/"), (b"GET", b"/"), (b"GET", b"/ips.txt"),
)  # fmt: skip
"""What a connection asks for, again and again. All of it is the list."""


class Connection(asyncio.Protocol):
    """One connection, with one request at a time. Made by `connect`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._reader: AnswerReader | None = None  # None: nothing is asked
        self._answer: asyncio.Future[Answer]
        self._over = False

    @property
    def usable(self) -> bool:
        """Whether another request may be sent on it, as far as is known here."""
        return not (self._over or self._transport.is_closing())

    @classmethod
    async def connect(cls, host: str, port: int) -> Connection:
        """Raises AnswerError."""
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(cls, host, port)
        except ConnectionRefusedError:
            raise AnswerError(Kind.REFUSED) from None
        except OSError as error:
            raise AnswerError(Kind.UNCONNECTED, (error.strerror or str(error)).lower()) from None
        return connection

    async def ask(self, method: bytes, head: bytes) -> Answer:
        """Send one request and return its answer, whatever its status. Raises AnswerError, also
        where the connection has ended since it was made: nobody would tell that again.

        Given up (cancelled), the connection cannot be used again; the caller closes it.
        """
        if self._transport.is_closing():
            raise AnswerError(Kind.CLOSED)
        self._reader = AnswerReader(method)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(head)
        return await self._answer

    def close(self) -> None:
        """At once; it may be closed already."""
        self._transport.abort()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP's is
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            self.close()  # an answer to nothing: the next request takes another connection
            return
        try:
            answer = self._reader.feed(data)
        except AnswerError as error:
            self.close()
            self._end(error)
            return
        if answer is not None:
            self._over = answer.closes
            self._end(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if self._reader is None:
            return
        if error is not None:
            self._end(AnswerError(Kind.RESET))
            return
        try:
            self._end(self._reader.end())
        except AnswerError as broken:
            self._end(broken)

    def _end(self, outcome: Answer | AnswerError) -> None:
        self._reader = None
        if self._answer.done():  # given up
            return
        if isinstance(outcome, Answer):
            self._answer.set_result(outcome)
        else:
            self._answer.set_exception(outcome)


def request(method: bytes, target: bytes, host: str) -> bytes:
    """A request's head; it has no body."""
    return b"%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: lbctl-verify\r\n\r\n" % (
        method, target, host.encode(),
    )  # fmt: skip


async def fetch(host: str, port: int, target: bytes, within_s: float) -> Answer:
    """GET on a connection of its own. Raises AnswerError."""
    connection: Connection | None = None
    try:
        async with asyncio.timeout(within_s):
            connection = await Connection.connect(host, port)
            return await connection.ask(b"GET", request(b"GET", target, f"{host}:{port}"))
    except TimeoutError:
        raise AnswerError(Kind.LATE) from None
    finally:
        if connection is not None:
            connection.close()


class Load:
    """`async with` runs it. `rate` is requests a second, at most, over all connections.

    `expected` is the list that answers must have; None while it may change. A request that
    began under another expectation than it ended under is held to none.
    """

    def __init__(self, host: str, port: int, *, connections: int, rate: float) -> None:
        self._host = host
        self._port = port
        self._connections = connections
        self._rate = rate
        self._heads = [
            (method, request(method, target, f"{host}:{port}")) for method, target in _ROUND
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._tally = Tally(time.monotonic())
        self.expected: bytes | None = None

    async def __aenter__(self) -> Self:
        self._tally = Tally(time.monotonic())
        self._tasks = [
            asyncio.create_task(self._run(number), name=f"load-{number}")
            for number in range(self._connections)
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def window(self) -> Window:
        """What has been counted since the last turn."""
        return self._tally.window

    def turn(self) -> Window:
        """What has been counted since the last turn; counting begins anew. Raises what ended a
        connection's task: then nothing that was counted means anything.
        """
        for task in self._tasks:
            if task.done():
                task.result()
        return self._tally.turn(time.monotonic())

    async def _run(self, number: int) -> None:
        """One client: asks, at its own even pace, on one connection after the other."""
        interval_s = self._connections / self._rate
        due_s = time.monotonic() + interval_s * number / self._connections
        connection: Connection | None = None
        asked = number
        try:
            while True:
                now_s = time.monotonic()
                # One that is late does not catch up: that would be a burst, not a steady load.
                due_s = max(due_s, now_s)
                await asyncio.sleep(due_s - now_s)
                due_s += interval_s
                connection = await self._ask(number, connection, *self._heads[asked % len(_ROUND)])
                asked += 1
        finally:
            if connection is not None:
                connection.close()

    async def _ask(
        self, number: int, connection: Connection | None, method: bytes, head: bytes
    ) -> Connection | None:
        """One request, counted. Returns the connection for the next one."""
        began_s = time.monotonic()
        expected = self.expected
        served_by = ""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                if connection is not None and not connection.usable:
                    connection.close()
                    connection = None
                if connection is None:
                    connection = await Connection.connect(self._host, self._port)
                answer = await connection.ask(method, head)
            served_by = answer.served_by
            check_list(answer, method, expected if expected is self.expected else None)
        except (AnswerError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                error = AnswerError(Kind.LATE)
            # Status and content leave the connection as it is: what failed is the request.
            if connection is not None and error.kind not in (Kind.STATUS, Kind.CONTENT):
                connection.close()
                connection = None
            self._tally.failed(
                Failure(error.kind, error.detail, served_by, number, began_s, time.monotonic())
            )
        else:
            self._tally.answered(began_s, time.monotonic())
        return connection
