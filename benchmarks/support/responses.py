"""Mutated responses, served by a backend gone mad and reached through the proxy.

The proxy is lbctl's own request path in this process (forwarder and listener on real sockets),
one for each lane, and each with a backend of its own. In a lane everything happens in turn: a
shot, and when its client has seen the end of it and the backend has sent all of it, a good
request on a new connection. If the proxy kept a connection that the shot had left dirty, that
request gets the wrong answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any

from tests.support.scripted import Proxy, config, loopback

from benchmarks.support.client import Connection
from benchmarks.support.mutations import RESPONSES, Ending, Shot, chance_of, shot
from benchmarks.support.site import get_bytes
from benchmarks.support.strict import NotHttpError
from benchmarks.support.volley import fire
from lbctl.config import Timeouts
from lbctl.model import Backend, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.support.tally import Tally

_TIMEOUTS = Timeouts(
    connect_timeout_s=1.0,
    response_timeout_s=0.5,
    head_timeout_s=0.5,
    client_idle_timeout_s=0.5,
    upstream_idle_timeout_s=0.5,
    body_idle_timeout_s=0.5,
)
_WITHIN_S = 5.0
"""A shot is answered, or ended, by then: response and body timeout, a second try, and the time
for which the proxy listens to a client it has refused.
"""
_ALLOWED = frozenset(range(100, 1_000)) - {101}
"""A backend's status is its own affair, but nobody asked for another protocol."""
_STAYING = 0.1  # of the clients
_TARGET = re.compile(rb"[A-Z]+ /(shot|good)/([0-9]+) ").match


class MadBackend:
    """Answers `/good/N` with N, and `/shot/N` with what shot N has become."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._sending = 0
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen; returns the port."""
        listening = loopback()
        self._server = await asyncio.start_server(self._serve, sock=listening)
        return int(listening.getsockname()[1])

    async def at_rest(self) -> None:
        """Until nothing of a shot is left to be sent."""
        await self._at_rest.wait()

    async def close(self) -> None:
        """Returns when no connection is left."""
        if self._server is not None:
            self._server.close()
        serving = list(self._serving)
        for one in serving:
            one.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - start_server makes one of each connection
        self._serving.add(task)
        try:
            while target := _TARGET(await reader.readuntil(b"\r\n\r\n")):
                if target[1] == b"good":
                    body = target[2]
                    writer.write(
                        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                    )
                elif not await self._send(writer, int(target[2])):
                    return
        except (asyncio.IncompleteReadError, OSError):
            return  # the proxy has had enough
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._serving.discard(task)

    async def _send(self, writer: asyncio.StreamWriter, number: int) -> bool:
        """Send a shot; returns whether the connection stays open."""
        made = response_shot(self._seed, number)
        self._sending += 1
        self._at_rest.clear()
        try:
            for count, piece in enumerate(made.pieces):
                if count and made.pause_s:
                    await asyncio.sleep(made.pause_s)
                if writer.is_closing():
                    return False  # the proxy has had enough
                writer.write(piece)
            if made.ending is Ending.RESET:
                writer.transport.abort()
        finally:
            self._sending -= 1
            if not self._sending:
                self._at_rest.set()
        return made.ending is Ending.WAIT


def response_shot(seed: int, number: int) -> Shot:
    """The response that the backend gives to `/shot/NUMBER`."""
    return shot(seed, number, RESPONSES, pipeline=2)


def request_shot(seed: int, number: int) -> Shot:
    """The request for it: well-formed, and in one piece."""
    chance = chance_of(seed, -1 - number)
    method, version = chance.choice(("GET", "GET", "HEAD", "POST")), chance.choice("1110")
    data = get_bytes(f"/shot/{number}", method=method).replace(b"/1.1", b"/1.%b" % version.encode())
    # A client that stays is at rest until it is sent away: only some have the time.
    ending = Ending.WAIT if chance.random() < _STAYING else Ending.HALF_CLOSE
    return Shot(seed, number, (data,), 0.0, ending)


class ResponseStorm:
    """Runs lanes until all shots are fired or there are findings enough."""

    def __init__(self, seed: int, tally: Tally) -> None:
        self._seed = seed
        self._tally = tally

    async def run(self, numbers: Iterator[int], lanes: int) -> None:
        """Fire the shots of these numbers."""
        asyncio.get_running_loop().set_exception_handler(self._on_exception)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(lanes):
                tasks.create_task(self._lane(numbers))

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._tally.findings.append(f"exception in the event loop: {context}")

    async def _lane(self, numbers: Iterator[int]) -> None:
        backend = MadBackend(self._seed)
        proxy = Proxy(config(_TIMEOUTS))
        try:
            only = Backend(id="mad", name="mad", ip="127.0.0.1", port=await backend.start())
            proxy.forwarder.apply(Snapshot(revision=1, generation=1, routes=(only,)))
            for number in numbers:
                await self._shoot(proxy.port, backend, number)
                proxy.lines.clear()
                proxy.suspects.clear()
                if self._tally.enough:
                    break
            await proxy.close()  # nothing may be left in flight, and no connection open
        finally:
            await backend.close()

    async def _shoot(self, port: int, backend: MadBackend, number: int) -> None:
        asked = request_shot(self._seed, number)
        made = response_shot(self._seed, number)
        try:
            seen = await fire(port, asked, within_s=_WITHIN_S)
        except OSError as error:
            self._tally.blame(made, f"no end: {error!r}, asked with {asked.data!r}")
            return
        try:
            may_be_head = asked.data.startswith(b"HEAD")
            self._tally.saw(seen.statuses(_ALLOWED, may_be_head=may_be_head), seen)
        except NotHttpError as error:
            self._tally.blame(made, f"{error}, asked with {asked.data!r}", seen)
        await backend.at_rest()
        await self._check(port, made)

    async def _check(self, port: int, before: Shot) -> None:
        """A good request on another connection gets its own answer."""
        wanted = str(before.number).encode()
        try:
            connection = await Connection.open(port)
            try:
                connection.send(get_bytes(f"/good/{before.number}", "Connection: close"))
                answer = await connection.answer()
            finally:
                connection.close()
        except (OSError, NotHttpError) as error:
            self._tally.blame(before, f"the next request failed: {error!r}")
            return
        if answer.status != 200 or answer.body != wanted:
            self._tally.blame(before, f"the next request was poisoned: {answer}")
            return
        self._tally.checks += 1
