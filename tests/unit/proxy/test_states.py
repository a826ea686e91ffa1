"""Every order of events: clients and backends that do anything, at any moment, on wires.

Each run is a script drawn by a seeded chance: requests whole and in pieces, pipelines, bodies,
upgrades; answers early, late, broken, doubled; connections refused, jammed, ended and lost; routes
that change; time that passes. After each event the invariants in `World.check` hold. Then half of
the runs are brought to a good end, without time passing: everybody reads and answers, and every
request has to get its answer. In the end nothing is left.

LBCTL_TEST_STATES is the number of runs. A failure names its seed, and `World(seed).run()` is that
run again.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from lbctl.config import Limits, Timeouts
from lbctl.model import Backend, Snapshot
from lbctl.proxy.accesslog import AccessLog
from lbctl.proxy.attempts import Attempts
from lbctl.proxy.downstream import Downstream, Phase
from lbctl.proxy.forwarder import SWEEP_INTERVAL_S
from lbctl.proxy.pool import Pool
from lbctl.proxy.upstream import Upstream
from tests.support.ends import Book, Server, Visitor
from tests.support.scripted import config
from tests.support.wires import ManualLoop, Wire, WiredForwarder

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.core.http1 import Response
    from lbctl.proxy.deadlines import Deadlines

RUNS = int(os.environ.get("LBCTL_TEST_STATES", "2500"))
TIMEOUTS = Timeouts(
    response_timeout_s=3, head_timeout_s=2, client_idle_timeout_s=6, upstream_idle_timeout_s=5,
    body_idle_timeout_s=4, try_timeout_s=0.5, tunnel_idle_timeout_s=7,
)  # fmt: skip
LIMITS = Limits(head_limit_bytes=256, write_buffer_bytes=40, idle_upstreams_per_backend=2)
BACKENDS = tuple(Backend(name, name, f"192.0.2.{ord(name)}") for name in "abc")

_VISITORS = 3  # at a time


class World:
    """One run."""

    def __init__(self, seed: int, limits: Limits = LIMITS) -> None:
        self._chance = random.Random(seed)
        self._seed = seed
        self.loop = ManualLoop()
        settings = config(timeouts=TIMEOUTS, limits=limits)
        self.forwarder = WiredForwarder(settings, self.loop, access_log=AccessLog(lambda _: None))
        self._route(BACKENDS[: self._chance.randint(1, 3)])
        self._book = Book()
        self._note = self._book.note
        self.visitors: list[Visitor] = []
        self._come()
        self.servers: list[Server] = []
        self._words: dict[Pool, tuple[int, float]] = {}  # how many, and when the last one came
        ask, send, serve = self._ask, self._send, self._serve
        self._events: tuple[Callable[[], None], ...] = (
            *[ask] * 12, *[send] * 6, *[serve] * 16, *[self._connect] * 10, *[self._jam] * 4,
            *[self._drain] * 4, self._end_of_visitor, self._end_of_server, self._loss,
            *[self._wait] * 2, self._reroute, *[self._come] * 2,
        )  # fmt: skip

    def run(self) -> None:
        with patch("lbctl.proxy.downstream.perf_counter", self.loop.time):
            try:
                for _ in range(self._chance.randint(10, 120)):
                    self._chance.choice(self._events)()
                    if self._chance.random() < 0.7:
                        self.loop.turn()
                    self._arrive()
                    self.check()
                if self._chance.random() < 0.5:
                    self._finish_well()
                self._finish()
            except Exception as error:
                story = "\n  ".join(self._book.story[-25:])
                raise AssertionError(f"seed {self._seed}: {error!r}, after\n  {story}") from error

    # Events.

    def _ask(self) -> None:
        visitor = self._visitor()
        visitor.ask(self._chance)
        visitor.send(self._chance)

    def _send(self) -> None:
        self._visitor().send(self._chance)

    def _visitor(self) -> Visitor:
        """One that is there; in most cases."""
        there = [one for one in self.visitors if not one.wire.is_closing()]
        return self._chance.choice(there or self.visitors)

    def _come(self) -> None:
        """Somebody new, if there are few."""
        if sum(not one.wire.is_closing() for one in self.visitors) < _VISITORS:
            client, _ = self.forwarder.accept()
            self.visitors.append(Visitor(self._book, len(self.visitors), client))

    def _serve(self) -> None:
        if busy := [one for one in self.servers if one.asked or one.outbox]:
            server = self._chance.choice(busy)
            server.answer(self._chance)
            server.send(self._chance)

    def _connect(self) -> None:
        forwarder = self.forwarder
        if not forwarder.asked_for:
            return
        which = self._chance.randrange(len(forwarder.asked_for))
        if self._chance.random() < 0.2:
            self._note(forwarder.asked_for[which][0].name, "refuses")
            forwarder.refused_to_connect(which)
        else:
            self._connected(which)

    def _connected(self, which: int) -> None:
        self._note(self.forwarder.asked_for[which][0].name, "is connected")
        upstream, _ = self.forwarder.connected(which)
        self.servers.append(Server(self._book, len(self.servers), upstream))

    def _ends(self) -> list[Visitor | Server]:
        everybody: list[Visitor | Server] = [*self.visitors, *self.servers]
        return [one for one in everybody if not one.wire.lost]

    def _jam(self) -> None:
        if ends := self._ends():
            one = self._chance.choice(ends)
            self._note(one.name, "reads no more")
            one.wire.jammed = True

    def _drain(self) -> None:
        if jammed := [one for one in self._ends() if one.wire.jammed]:
            one = self._chance.choice(jammed)
            self._note(one.name, "reads again")
            one.wire.drain()

    def _end_of_visitor(self) -> None:
        self._visitor().end()

    def _end_of_server(self) -> None:
        if self.servers:
            self._chance.choice(self.servers).end()

    def _loss(self) -> None:
        if (ends := self._ends()) and self._chance.random() < 0.5:
            one = self._chance.choice(ends)
            self._note(one.name, "is lost")
            one.wire.lose()

    def _wait(self) -> None:
        seconds = self._chance.choice((*[0.25] * 4, *[0.75] * 4, 2.5, 4.5, 7.5))
        self._note(seconds, "s pass")
        self.loop.advance(seconds)
        for one in self.visitors:
            wire = one.wire
            closed = wire.aborted or wire.lost or (wire.is_closing() and not wire.held_bytes)
            late = one.protocol.deadline <= self.forwarder.deadlines.now
            assert closed or not late, f"{one.name} stays for ever"

    def _reroute(self) -> None:
        routes = self._chance.sample(BACKENDS, self._chance.randint(0, 3))
        if self._chance.random() < 0.3:
            routes = [replace(one, ip="192.0.2.200") for one in routes]
        self._route(tuple(routes))
        for one in BACKENDS:
            self.forwarder.forget(one.id)

    def _route(self, routes: tuple[Backend, ...]) -> None:
        revision = self.forwarder.revision + 1
        self.forwarder.apply(Snapshot(revision, revision, routes))

    def _arrive(self) -> None:
        for server in self.servers:
            server.read()

    # What always holds.

    def check(self) -> None:
        live = [one.protocol for one in self.visitors if one.protocol._pool is not None]
        forwarder = self.forwarder
        assert forwarder.live == len(live), "live"
        assert sum(pool.in_flight for pool in forwarder.pools.values()) == len(live), "in flight"
        tries = [one.protocol._attempts for one in self.visitors]
        assert forwarder.budget.active == sum(one.repeats for one in tries if one), "budget"
        for pool in forwarder.pools.values():
            if self._words.get(pool, (0, 0.0))[0] != pool.heard:
                self._words[pool] = pool.heard, forwarder.deadlines.now
        for server in self.servers:
            self._check_upstream(server.protocol, server.wire)
        for visitor in self.visitors:
            if not visitor.wire.is_closing():
                self._check_downstream(visitor.protocol, visitor.wire)
                self._check_deadline(visitor)
                self._check_silence(visitor)

    def _check_upstream(self, upstream: Upstream, wire: Wire) -> None:
        owner = upstream.downstream
        idle = upstream.pool.idle.count(upstream)
        if idle:
            assert idle == 1, "idle twice"
            assert owner is None, "idle, with an owner"
            assert upstream.pool.routed, "idle, and not routed"
        if wire.is_closing():
            return
        if idle:
            assert wire.is_reading(), "idle, and paused"
            assert not upstream.clogged, "idle, and clogged"
        elif owner is None:
            raise AssertionError("nobody's, and open")
        else:
            assert owner._upstream is upstream, "its owner has another one"
            if not upstream._eof:
                assert wire.is_reading() is not owner._write_paused, "paused for no reason"

    def _check_downstream(self, client: Downstream, wire: Wire) -> None:
        phase, upstream = client._phase, client._upstream
        assert (upstream is not None) == (phase in (Phase.EXCHANGE, Phase.TUNNEL)), "upstream"
        clogged = upstream is not None and upstream.clogged
        read = client._eof or wire.is_reading()
        if phase is Phase.HEAD:
            waits = client._buffer and (client._write_paused or not self.loop.idle)
            assert read or waits, "at rest, and paused"
            complete = b"\r\n\r\n" in client._buffer.lstrip(b"\r\n")
            assert waits or not complete, "a request is left lying"
        elif phase is Phase.EXCHANGE and client.body is not None:
            assert read or clogged, "its body is not read"
        elif phase is Phase.TUNNEL:
            assert read or clogged, "its tunnel is not read"
        elif phase is Phase.LINGER:
            assert read, "it lingers unread"

    def _check_deadline(self, visitor: Visitor) -> None:
        """Never later than the timeout of what is waited for, counted from when that began."""
        client, now = visitor.protocol, self.forwarder.deadlines.now
        tries = client._attempts.count if client._attempts else 0
        state = (client._phase, client._number, client.body is None, bool(client._status), tries)
        if state != visitor.state:
            visitor.state, visitor.since, visitor.had_choice = state, now, True
        if client._number != visitor.number or client.body is not None:
            visitor.number, visitor.whole_since = client._number, now
        since = visitor.since
        if client._phase is Phase.HEAD:
            latest = since + TIMEOUTS.client_idle_timeout_s
            if client._started:
                latest = min(latest, client._started + TIMEOUTS.head_timeout_s)
        elif client._phase is Phase.TUNNEL:
            latest = now + TIMEOUTS.tunnel_idle_timeout_s
        elif client._phase is Phase.LINGER:
            latest = since + TIMEOUTS.body_idle_timeout_s
        elif client._status or (client.body is not None and client._phase is Phase.EXCHANGE):
            latest = now + TIMEOUTS.body_idle_timeout_s
        else:
            latest = visitor.whole_since + TIMEOUTS.response_timeout_s
        assert client.deadline <= latest, f"{visitor.name}: deadline {client.deadline - now:+} s"

    def _check_silence(self, visitor: Visitor) -> None:
        """Nobody waits for a backend that says nothing, where there always was another one."""
        client, forwarder = visitor.protocol, self.forwarder
        request, pool = client.request, client._pool
        others = [one for one in forwarder.pools.values() if one.routed and one is not pool]
        visitor.had_choice = visitor.had_choice and bool(others)
        if client._phase is not Phase.EXCHANGE or request is None or pool is None:
            return
        untouched = client._upstream is not None and client._upstream.untouched
        if request.repeatable and untouched and not client._attempts:
            _, last_word = self._words.get(pool, (0, 0.0))
            silent_s = forwarder.deadlines.now - max(visitor.since, last_word)
            longest_s = TIMEOUTS.try_timeout_s + SWEEP_INTERVAL_S
            assert silent_s <= longest_s or not visitor.had_choice, f"{visitor.name} waits in vain"

    # The end.

    def _finish_well(self) -> None:
        """Everybody reads, and answers well: every request has its answer, at once."""
        self._note("everybody is good from here on")
        self._route(BACKENDS)
        for _ in range(200):
            before = len(self._book.story)
            for one in self._ends():
                if one.wire.jammed:
                    one.wire.drain()
            while self.forwarder.asked_for:
                self._connected(0)
            for visitor in self.visitors:
                visitor.send(self._chance)
                if visitor.protocol._phase is Phase.TUNNEL and not visitor.ended:
                    visitor.end()
            self._arrive()
            for server in self.servers:
                server.answer(self._chance, well=True)
                server.send(self._chance)
                if server.wire.ended and not server.ended:
                    server.end()
            self.loop.settle()
            self._arrive()
            self.check()
            if len(self._book.story) == before and not self.forwarder.asked_for:
                break
        else:
            raise AssertionError("it goes on for ever")
        for visitor in self.visitors:
            wire = visitor.wire
            if not wire.is_closing() and not wire.ended and not wire.lost:
                assert visitor.answers() == len(visitor.asked), f"{visitor.name} waits"

    def _finish(self) -> None:
        for visitor in self.visitors:
            visitor.check_answers()
        for one in self._ends():
            one.wire.lose()
        while self.forwarder.asked_for:
            self.forwarder.refused_to_connect()
        self.loop.settle()
        self.check()
        pools = {server.protocol.pool for server in self.servers}
        assert not self.forwarder.downstreams
        assert not self.forwarder.live
        assert not self.forwarder.budget.active
        assert not any(pool.open or pool.idle or pool.in_flight for pool in pools)


@pytest.mark.parametrize("part", range(4))
def test_whatever_happens_in_whatever_order(part: int) -> None:
    run(range(part, RUNS, 4))


def test_with_limits_that_nobody_reaches_it_is_the_same() -> None:
    limits = replace(LIMITS, rate_limit=1e6, rate_burst=10**6, client_connections=1000)
    for seed in range(0, RUNS, 8):
        world = World(seed, limits)
        world.run()
        gate = world.forwarder.gate
        assert gate is not None
        assert not gate.held(gate.client("192.0.2.7")[0])


def run(seeds: range) -> None:
    for seed in seeds:
        World(seed).run()


def _idle_again_and_still_ours(client: Downstream, response: Response, message: bytes) -> None:
    """As answered(), but the connection that is back in its pool is still known here."""
    upstream = client._upstream

    def write(wire: Wire, data: bytes) -> None:
        client._upstream = upstream
        _WRITE(wire, data)

    with patch.object(Wire, "write", write):
        _ANSWERED(client, response, message)


def _long_words(pool: Pool, deadlines: Deadlines) -> None:
    """Whatever was said once counts for good."""
    pool.silent_at = deadlines.response if pool.heard else 0.0
    pool.close_idle(before=deadlines.now)


_ANSWERED, _WRITE = Downstream.answered, Wire.write


@pytest.mark.parametrize(
    ("owner", "name", "careless"),
    [
        (Downstream, "answered", _idle_again_and_still_ours),
        (Downstream, "_end_attempts", lambda _: None),
        (Downstream, "_keep_to_time", lambda _: None),
        (Downstream, "read_on", lambda _: None),
        (Downstream, "_touch_body", lambda _: None),
        (Upstream, "resume", lambda _: None),
        (Upstream, "pause", lambda _: None),
        (Pool, "discard", lambda *_: None),
        (Pool, "sweep", _long_words),
        (Attempts, "close", lambda _: None),
    ],
)
def test_it_would_notice(owner: type, name: str, careless: object) -> None:
    with patch.object(owner, name, careless), pytest.raises(AssertionError, match=r"^seed \d+"):
        run(range(RUNS))
