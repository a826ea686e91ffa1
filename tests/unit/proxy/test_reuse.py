"""Connections that carry one request after another, and what of the one may not touch the next.

On wires, moved by hand: each of these needs an order of events that sockets show once in a while.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from lbctl.config import Balancing, Limits, Retries, Timeouts
from lbctl.model import Backend, Snapshot
from lbctl.proxy.accesslog import AccessLog
from tests.support.scripted import config
from tests.support.wires import ManualLoop, Wire, WiredForwarder, wire_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.proxy.upstream import Upstream

GET = b"GET / HTTP/1.1\r\nHost: site\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: site\r\nContent-Length: %d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Stage:
    """A forwarder between clients and backends that the test plays."""

    def __init__(self, names: str, **sections: Any) -> None:
        self.loop = ManualLoop()
        self.lines: list[str] = []
        self.log = AccessLog(self.lines.append)
        self.forwarder = WiredForwarder(config(**sections), self.loop, access_log=self.log)
        self.pools = self.forwarder.pools
        self.route(names)

    def route(self, names: str) -> None:
        routes = tuple(Backend(name, name, f"192.0.2.{ord(name)}") for name in names)
        revision = self.forwarder.revision + 1
        self.forwarder.apply(Snapshot(revision, revision, routes))

    def client(self, *sends: bytes) -> Wire:
        _, wire = self.forwarder.accept()
        for data in sends:
            wire.deliver(data)
        return wire

    def asked(self) -> list[str]:
        """The backends whose connections are being waited for."""
        return [pool.name for pool, _ in self.forwarder.asked_for]

    def connect(self) -> Wire:
        return self.forwarder.connected()[1]

    def warm(self) -> list[Upstream]:
        """Every backend answers once; gives their idle connections, the next one's turn first."""
        clients = [self.client(GET) for _ in self.pools]
        pools = [pool for pool, _ in self.forwarder.asked_for]
        for _ in clients:
            self.connect().deliver(OK)
        return [pool.idle[0] for pool in pools]


@contextmanager
def stage(names: str = "a", **sections: Any) -> Iterator[Stage]:
    one = Stage(names, **sections)
    with patch("lbctl.proxy.downstream.perf_counter", one.loop.time):
        yield one


# Who is paused, and for whom.


def test_a_client_that_jams_does_not_pause_a_connection_that_is_idle_again() -> None:
    with stage(limits=Limits(write_buffer_bytes=1024)) as on:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + bytes(2000)
        client = on.client(GET)
        backend = on.connect()
        backend.deliver(answer)
        client.jammed = True
        client.deliver(GET)
        backend.deliver(answer)  # known by now: it goes out in one piece, and fills the buffer
        (upstream,) = on.pools["a"].idle
        assert client.held_bytes > 1024
        assert backend.is_reading()
        other = on.client(GET)
        backend.deliver(OK)
        assert other.arrived.endswith(b"ok")
        client.drain()
        client.deliver(GET)
        backend.deliver(OK)
        assert client.arrived.endswith(b"ok")
        assert list(on.pools["a"].idle) == [upstream]


def test_a_body_goes_on_where_one_backend_refused_and_the_next_had_a_connection() -> None:
    with stage("ab") as on:
        gone, idle = on.warm()
        wire_of(gone).lose()
        client = on.client(POST % 10 + b"hello")
        assert on.asked() == [gone.pool.name]
        on.forwarder.refused_to_connect()
        assert idle.downstream is not None
        assert client.delivers
        client.deliver(b"world")
        assert wire_of(idle).arrived.endswith(b"helloworld")


def test_what_a_backend_did_not_take_of_a_body_keeps_no_connection_open() -> None:
    with stage() as on:
        client = on.client(POST % 200_000)
        backend = on.connect()
        backend.jammed = True
        client.deliver(bytes(100_000))
        backend.deliver(OK)
        assert client.arrived.endswith(b"ok")
        on.loop.settle()
        assert backend.lost
        assert not on.pools["a"].open


# How long is waited, and for whom.


def test_a_post_that_came_whole_waits_for_its_response_alone_on_a_used_connection() -> None:
    timeouts = Timeouts(response_timeout_s=3, body_idle_timeout_s=60)
    with stage(timeouts=timeouts) as on:
        on.warm()
        client = on.client(POST % 2 + b"hi")
        assert not on.asked()
        on.loop.advance(3.5)
        assert client.arrived.startswith(b"HTTP/1.1 504 ")


def test_a_get_that_one_backend_refused_leaves_a_silent_one_too() -> None:
    with stage("ab") as on:
        gone, idle = on.warm()
        wire_of(gone).lose()
        on.client(GET)
        assert on.asked() == [gone.pool.name]
        on.loop.advance(1.5)  # longer than a silent backend has; but nobody was asked yet
        on.forwarder.refused_to_connect()
        assert idle.downstream is not None
        on.route("abc")
        on.loop.advance(1.5)
        assert on.asked() == ["c"]


def test_a_time_for_each_try_is_no_longer_than_that_for_all() -> None:
    with stage(timeouts=Timeouts(response_timeout_s=0.5, try_timeout_s=3)) as on:
        client = on.client(GET)
        on.connect()
        on.loop.advance(0.75)
        assert client.arrived.startswith(b"HTTP/1.1 504 ")


def test_where_a_try_may_take_as_long_as_an_answer_each_of_them_may() -> None:
    with stage("ab", timeouts=Timeouts(response_timeout_s=0.5, try_timeout_s=3)) as on:
        client = on.client(GET)
        on.connect()
        on.loop.advance(0.75)
        assert on.asked() == ["b"]
        on.connect()
        assert client.arrived == b""
        on.loop.advance(0.75)
        assert client.arrived.startswith(b"HTTP/1.1 504 ")
        assert on.asked() == []


@pytest.mark.parametrize("warm", [True, False])
def test_a_second_try_ends_with_the_time_for_all(warm: bool) -> None:
    with stage("ab", timeouts=Timeouts(response_timeout_s=1.5, try_timeout_s=1)) as on:
        if warm:
            on.warm()
        client = on.client(GET)
        if not warm:
            on.connect()
        on.loop.advance(1.25)
        assert [pool.retries["silent"] for pool in on.pools.values()] == [1, 0]
        if not on.pools["b"].open:
            on.connect()
        assert client.arrived == b""
        on.loop.advance(0.5)
        assert client.arrived.startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("head", [GET, POST % 0])
def test_what_connecting_took_is_of_the_same_time(head: bytes) -> None:
    with stage("abc", timeouts=Timeouts(response_timeout_s=2, try_timeout_s=1)) as on:
        client = on.client(head)
        on.loop.advance(0.75)
        on.forwarder.refused_to_connect()
        on.loop.advance(0.75)
        on.connect()
        on.loop.advance(0.75)
        assert client.arrived.startswith(b"HTTP/1.1 504 ")


def test_the_wait_for_100_is_not_the_clients() -> None:
    timeouts = Timeouts(body_idle_timeout_s=10)
    with stage(timeouts=timeouts, limits=Limits(body_rate_min=500)) as on:
        client = on.client((POST % 3000).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        backend = on.connect()
        on.loop.advance(9)
        backend.deliver(CONTINUE)
        client.deliver(bytes(100))
        on.loop.advance(2)
        client.deliver(bytes(2900))
        backend.deliver(OK)
        assert client.arrived.startswith(CONTINUE + b"HTTP/1.1 200 ")


def test_nor_is_the_wait_for_a_connection() -> None:
    timeouts = Timeouts(body_idle_timeout_s=1)
    with stage(timeouts=timeouts, limits=Limits(body_rate_min=500)) as on:
        client = on.client(POST % 200)
        on.loop.advance(1.5)
        backend = on.connect()
        client.deliver(bytes(200))
        backend.deliver(OK)
        assert client.arrived.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("tail", [b"", b"\r\n", b"\r\n\r\n"])
def test_a_client_that_sends_no_more_is_closed_with_its_answer(tail: bytes) -> None:
    with stage() as on:
        client = on.client(GET + tail)
        client.deliver_end()
        on.connect().deliver(OK)
        on.loop.settle()
        assert client.arrived.endswith(b"ok")
        assert client.lost


def test_empty_lines_drop_by_drop_are_no_request_and_buy_no_time() -> None:
    with stage(timeouts=Timeouts(client_idle_timeout_s=5, head_timeout_s=5)) as on:
        client = on.client()
        for _ in range(6):
            for drop in (b"\r", b"\n"):
                if client.delivers:
                    client.deliver(drop)
                    on.loop.advance(0.5)
        on.loop.settle()
        assert client.lost


# What is counted.


def test_a_second_try_that_never_was_takes_nothing_of_the_budget() -> None:
    settings = Retries(retry_budget_min=1, retry_budget_percent=0)
    with stage(retrying=settings) as on:
        on.client(GET)
        backend = on.connect()
        on.loop.advance(1.5)  # silent; but there is no other
        assert on.forwarder.budget.active == 0
        assert on.forwarder.may_repeat()
        on.forwarder.budget.end()
        backend.deliver(OK)


def test_a_refused_request_has_an_id_of_its_own() -> None:
    with stage() as on:
        client = on.client(GET)
        on.connect().deliver(OK)
        client.deliver(GET.replace(b"\r\n\r\n", b"\r\nVia: 1.1 lbctl\r\n\r\n"))
        assert b"HTTP/1.1 508 " in client.arrived
        on.client(b"GET / HTTP/1.1\r\n\r\n")
        on.log.flush()
        rows = [json.loads(line) for line in "".join(on.lines).splitlines()]
        assert [row["status"] for row in rows] == [200, 508, 400]
        assert len({row["request_id"] for row in rows}) == 3


def test_what_a_leaving_backend_still_has_is_no_load_for_the_others() -> None:
    with stage("a", balancing=Balancing(balance="consistent-hash", hash_load=1.25)) as on:
        for _ in range(20):
            on.client(GET)
        assert on.forwarder.live == 20
        on.route("bc")
        for _ in range(12):  # of one key: as many as the bound allows stay together
            on.client(GET)
        assert max(on.pools["b"].in_flight, on.pools["c"].in_flight) <= 8
