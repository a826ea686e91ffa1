"""Mixed load: users who each do one thing after the other, and complain about every answer that
is not exactly what they asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from benchmarks.support.client import Connection
from benchmarks.support.site import PAGE, TARGETS, WrongAnswerError, get_bytes
from benchmarks.support.strict import NotHttpError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from benchmarks.support.site import Site
    from benchmarks.support.strict import Answer

BODY_LIMIT_BYTES = 65_536
_ROUNDS_PER_CONNECTION = 200  # on average; then the user makes a new one
_SLOW_PAGES = 6
_SLOW_READ_BYTES = 8_192
_SLOW_PAUSE_S = 0.05
_SLOW_BUFFER_BYTES = 16_384
_LONGEST_REST_S = 15.0
_AFTER_FAILURE_S = 0.2


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that must not happen. `safe`: the request could have been sent twice."""

    at: datetime
    kind: str
    what: str
    safe: bool = True

    def __str__(self) -> str:
        return f"{self.at:%H:%M:%S.%f} {self.kind}: {self.what}"


class Pace:
    """At most so many turns a second, over all who ask."""

    def __init__(self, per_s: float) -> None:
        self._gap_s = 1 / per_s
        self._next = 0.0

    async def turn(self) -> None:
        now = asyncio.get_running_loop().time()
        # Who comes late may catch up a little: timers of the loop are only so exact.
        self._next = max(self._next + self._gap_s, now - 0.05)
        await asyncio.sleep(self._next - now)


class Traffic:
    """Runs the users and counts what they saw. `on_failure` hears of each failure at once."""

    def __init__(
        self, port: int, site: Site, *, pace: Pace, seed: int, on_failure: Callable[[Failure], None]
    ) -> None:
        self.port = port
        self.site = site
        self.pace = pace
        self.answered: Counter[str] = Counter()
        self.slowest_s: dict[str, float] = {}
        self._seed = seed
        self._on_failure = on_failure
        self._stop = asyncio.Event()

    def failed(self, kind: str, what: str, *, safe: bool = True) -> None:
        self._on_failure(Failure(datetime.now().astimezone(), kind, what, safe))

    def took(self, kind: str, seconds: float, count: int = 1) -> None:
        """`count` requests of a kind were answered as they should be, in so long."""
        self.answered[kind] += count
        self.slowest_s[kind] = max(seconds, self.slowest_s.get(kind, 0.0))

    def stop(self) -> None:
        """Let every user end what he is about."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    async def rest(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def run(self, connections: int) -> None:
        """`connections` users, one in four of the patient kinds, until stop()."""
        patient = (SlowReader, Idler)
        async with asyncio.TaskGroup() as users:
            for number in range(connections):
                chance = random.Random(f"{self._seed}:{number}")  # noqa: S311 - no secret
                kind = patient[number // 4 % 2] if number % 4 == 3 else Visitor
                users.create_task(kind(self, chance).run())


class User:
    """One client with at most one connection, which is kept as long as it is good."""

    kinds: ClassVar[Mapping[str, int]] = {}
    """What he does, by weight: names of methods."""
    unsafe: ClassVar[frozenset[str]] = frozenset()
    """Those that must not be sent twice."""

    def __init__(self, traffic: Traffic, chance: random.Random) -> None:
        self.traffic = traffic
        self.chance = chance
        self.connection: Connection | None = None

    async def run(self) -> None:
        names, weights = list(self.kinds), list(self.kinds.values())
        loop = asyncio.get_running_loop()
        while not self.traffic.stopped:
            await self.traffic.pace.turn()
            [kind] = self.chance.choices(names, weights)
            act: Callable[[], Awaitable[int]] = getattr(self, kind)
            begun = loop.time()
            try:
                count = await act()
            except (OSError, NotHttpError, WrongAnswerError) as error:
                after_ms = (loop.time() - begun) * 1000
                text = str(error) or type(error).__name__
                what = f"{text} ({type(error).__name__}, after {after_ms:.0f} ms)"
                self.traffic.failed(kind, what, safe=kind not in self.unsafe)
                self.leave()
                await self.traffic.rest(_AFTER_FAILURE_S)
            else:
                self.traffic.took(kind, loop.time() - begun, count)
                if self.chance.random() < 1 / _ROUNDS_PER_CONNECTION:
                    self.leave()
        self.leave()

    async def connected(self, receive_buffer_bytes: int = 0) -> Connection:
        if self.connection is None:
            self.connection = await Connection.open(
                self.traffic.port, receive_buffer_bytes=receive_buffer_bytes
            )
        return self.connection

    def leave(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def heed(self, answer: Answer) -> None:
        """A connection that the server says it closes carries no other request."""
        if answer.closes:
            self.leave()


class Visitor(User):
    """Asks for small things, quickly."""

    kinds: ClassVar = {
        "get": 20, "pipeline": 3, "head": 2, "post": 2, "put": 1,
        "chunked": 2, "download": 2, "fresh": 3, "abort": 1,
    }  # fmt: skip
    unsafe = frozenset(("post", "put", "chunked"))

    async def get(self) -> int:
        return await self._one(self.chance.choice(TARGETS))

    async def download(self) -> int:
        return await self._one(PAGE)

    async def _one(self, target: str) -> int:
        connection = await self.connected()
        connection.send(get_bytes(target))
        answer = await connection.answer()
        self.traffic.site.check(target, answer)
        self.heed(answer)
        return 1

    async def head(self) -> int:
        connection = await self.connected()
        connection.send(get_bytes("/ips.txt", method="HEAD"))
        answer = await connection.answer(bodiless=True)
        self.traffic.site.check_origin(answer, 200)
        self.heed(answer)
        return 1

    async def pipeline(self) -> int:
        """Two in one packet; what comes back has to be in order."""
        connection = await self.connected()
        targets = self.chance.choices(TARGETS, k=2)
        connection.send(b"".join(get_bytes(target) for target in targets))
        for target in targets:
            answer = await connection.answer()
            self.traffic.site.check(target, answer)
        self.heed(answer)
        return 2

    async def fresh(self) -> int:
        """A connection for one request, which the server is asked to close."""
        target = self.chance.choice(TARGETS)
        connection = await Connection.open(self.traffic.port)
        try:
            connection.send(get_bytes(target, "Connection: close"))
            self.traffic.site.check(target, await connection.answer())
            await connection.end()
        finally:
            connection.close()
        return 1

    async def post(self) -> int:
        return await self._upload("POST", chunked=False)

    async def put(self) -> int:
        return await self._upload("PUT", chunked=False)

    async def chunked(self) -> int:
        return await self._upload("POST", chunked=True)

    async def _upload(self, method: str, *, chunked: bool) -> int:
        """A backend takes no uploads: 405, whether it has read the body by then or not."""
        body = self.chance.randbytes(self.chance.randint(1, BODY_LIMIT_BYTES))
        connection = await self.connected()
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        head = get_bytes("/ips.txt", framing, method=method)
        connection.send(head + (self._chunks(body) if chunked else body))
        answer = await connection.answer()
        self.traffic.site.check_origin(answer, 405)
        self.heed(answer)
        return 1

    def _chunks(self, body: bytes) -> bytes:
        cut = self.chance.randint(1, len(body))
        parts = [part for part in (body[:cut], body[cut:]) if part]
        trailer = b"X-Sum: 1\r\n" if self.chance.random() < 0.5 else b""
        return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + (
            b"0\r\n%b\r\n" % trailer
        )

    async def abort(self) -> int:
        """Leaves in the middle of something: before the answer, or behind a part of it."""
        connection = await Connection.open(self.traffic.port)
        try:
            requests = get_bytes(PAGE) * self.chance.randint(1, 4)
            connection.send(requests[: self.chance.randint(1, len(requests))])
            await asyncio.sleep(self.chance.random() * 0.01)
        finally:
            if self.chance.random() < 0.5:
                connection.reset()
            else:
                connection.close()
        return 1


class SlowReader(User):
    """Asks for many pages at once, and reads them a little at a time."""

    kinds: ClassVar = {"slow": 1}

    async def slow(self) -> int:
        connection = await self.connected(_SLOW_BUFFER_BYTES)
        connection.send(get_bytes(PAGE) * _SLOW_PAGES)
        for _ in range(_SLOW_PAGES):
            answer = await connection.answer(at_once=_SLOW_READ_BYTES, pause_s=_SLOW_PAUSE_S)
            self.traffic.site.check(PAGE, answer)
        self.heed(answer)
        return _SLOW_PAGES


class Idler(User):
    """Keeps a connection open for nothing, and has one question now and then."""

    kinds: ClassVar = {"idle": 1}

    async def idle(self) -> int:
        connection = await self.connected()
        await self.traffic.rest(self.chance.uniform(0.5, _LONGEST_REST_S))
        connection.send(get_bytes("/ips.txt"))
        answer = await connection.answer()
        self.traffic.site.check("/ips.txt", answer)
        self.heed(answer)
        return 1
