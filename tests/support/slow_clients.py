"""Clients that hold connections with next to no traffic, in the four ways of slowhttptest.

    python -m tests.support.slow_clients {head,body,read,ranges} PORT COUNT

Opens COUNT connections to a port of 127.0.0.1, prints "open" when each has said its first words,
and goes on, a little every second each, until its standard input ends. Then it prints how often
it was answered and how often closed, as JSON. Who is closed comes back after a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import socket
import sys
from dataclasses import dataclass, field

MODES = ("head", "body", "read", "ranges")
_TICK_S = 1.0
_AGAIN_S = 5.0
_OPENED_A_SECOND = {"head": 500, "body": 250, "read": 125, "ranges": 250}
"""So many, lest the opening be a load of its own: it is their slowness that is looked at."""
_SMALL_WINDOW_BYTES = 1024
_READ_BYTES = 64
_PIPELINED = 10
_TICKS_TO_ASK_AGAIN = 10

_LINE = "GET / HTTP/1.1\r\nHost: site\r\n"
_RANGES = ",".join(f"{n}-{n + 1000}" for n in range(1000))
FIRST = {
    "head": _LINE,
    "body": "POST / HTTP/1.1\r\nHost: site\r\nContent-Length: 8192\r\n\r\nx",
    "read": f"{_LINE}Accept: text/html\r\n\r\n" * _PIPELINED,
    "ranges": f"HEAD / HTTP/1.1\r\nHost: site\r\nRange: bytes=0-,{_RANGES}\r\n\r\n",
}


@dataclass
class Attack:
    """`count` clients of one mode."""

    mode: str
    port: int
    count: int
    answered: int = 0
    closed: int = 0
    _begun: set[int] = field(default_factory=set)
    _all_begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        clients = [asyncio.create_task(self._client(number)) for number in range(self.count)]
        await self._all_begun.wait()
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        print(json.dumps({"answered": self.answered, "closed": self.closed}))

    async def _client(self, number: int) -> None:
        await asyncio.sleep(number / _OPENED_A_SECOND[self.mode])
        while True:
            with contextlib.suppress(OSError):
                await self._connection(number)
            self.closed += 1
            await asyncio.sleep(_AGAIN_S)

    async def _connection(self, number: int) -> None:
        """One connection, until the other side has closed it."""
        loop = asyncio.get_running_loop()
        with socket.socket() as end:
            end.setblocking(False)
            if self.mode == "read":
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_WINDOW_BYTES)
            await loop.sock_connect(end, ("127.0.0.1", self.port))
            await loop.sock_sendall(end, FIRST[self.mode].encode())
            self._begun.add(number)
            if len(self._begun) == self.count:
                self._all_begun.set()
            heard = False
            for tick in range(sys.maxsize):
                await asyncio.sleep(_TICK_S * random.uniform(0.5, 1.5))
                with contextlib.suppress(BlockingIOError):
                    data = end.recv(_READ_BYTES if self.mode == "read" else 65_536)
                    if not data:
                        return
                    self.answered += not heard
                    heard = True
                self._go_on(end, tick)

    def _go_on(self, end: socket.socket, tick: int) -> None:
        if self.mode == "head":
            end.send(b"X-%d: y\r\n" % tick)
        elif self.mode == "body":
            end.send(b"x")
        elif self.mode == "ranges" and tick % _TICKS_TO_ASK_AGAIN == _TICKS_TO_ASK_AGAIN - 1:
            end.send(FIRST[self.mode].encode())


def main() -> None:
    mode, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2 * count + 100), hard), hard))
    asyncio.run(Attack(mode, port, count).run())


if __name__ == "__main__":
    main()
