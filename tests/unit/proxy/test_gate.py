"""Limits of client networks: who may come, how many connections, how many requests."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.config import Limits, Timeouts, Trust
from lbctl.model import Backend, Snapshot
from lbctl.proxy.downstream import Downstream
from lbctl.proxy.gate import Ledger, Limited, gate_of, ledger_of_one
from tests.support.deadlines import eventually, scaled
from tests.support.scripted import config, proxied
from tests.support.wires import ManualLoop, WiredForwarder

if TYPE_CHECKING:
    from tests.support.scripted import Client, Reply, ScriptedBackend

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HERE, PROXIES = "127.0.0.0/8", Trust(trusted_proxies="127.0.0.1")


def logged(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in "".join(lines).splitlines()]


async def answered(client: Client, backend: ScriptedBackend, *lines: str) -> Reply:
    """One request, and its answer."""
    await client.get("/", *lines)
    peer, _ = await backend.request()
    peer.send(OK)
    return await client.reply()


# Off.


def test_without_limits_there_is_no_gate_and_no_other_connection() -> None:
    assert gate_of(Limits(), None) is None
    forwarder = WiredForwarder(config(), ManualLoop())
    downstream, _ = forwarder.accept()
    assert type(downstream) is Downstream


@pytest.mark.parametrize(
    "limits",
    [
        Limits(rate_limit=0.5),
        Limits(client_connections=1),
        Limits(allow_networks="192.0.2.0/24"),
        Limits(deny_networks=HERE),
    ],
)
def test_each_limit_makes_one(limits: Limits) -> None:
    downstream, _ = WiredForwarder(config(limits=limits), ManualLoop()).accept()
    assert isinstance(downstream, Limited)


# Networks.


@pytest.mark.parametrize(
    "limits", [Limits(deny_networks="127.0.0.0/8"), Limits(allow_networks="192.0.2.0/24")]
)
async def test_who_may_not_come_is_told_so_and_reaches_no_backend(limits: Limits) -> None:
    async with proxied(limits=limits) as (proxy, (a,)):
        client = await proxy.client()
        await client.get("/secret")
        reply = await client.reply()
        assert (reply.status, reply.body) == (403, b"403 Forbidden: denied\n")
        assert reply.fields[b"connection"] == b"close"
        await client.ended()
        client.close()
        await eventually(lambda: not proxy.forwarder.downstreams)
        proxy.forwarder.access_log.flush()  # type: ignore[union-attr]
        assert a.accepted == 0
        assert proxy.forwarder.refused == {"denied": 1}
        (row,) = logged(proxy.lines)
        assert (row["status"], row["client"], row["method"]) == (403, "127.0.0.1", None)


async def test_to_deny_wins() -> None:
    limits = Limits(allow_networks="127.0.0.1", deny_networks=HERE)
    async with proxied(limits=limits) as (proxy, _):
        client = await proxy.client()
        await client.get()
        assert (await client.reply()).status == 403


async def test_who_is_allowed_is_served() -> None:
    async with proxied(limits=Limits(allow_networks=HERE)) as (proxy, (a,)):
        assert (await answered(await proxy.client(), a)).status == 200


async def test_who_may_not_come_and_says_nothing_is_answered_and_closed_all_the_same() -> None:
    async with proxied(limits=Limits(deny_networks=HERE)) as (proxy, _):
        client = await proxy.client()
        assert (await client.reply()).status == 403
        await client.gone()
        await eventually(lambda: not proxy.forwarder.downstreams)


async def test_who_may_not_come_cannot_stay_by_talking_on() -> None:
    async with proxied(limits=Limits(deny_networks=HERE)) as (proxy, (a,)):
        client = await proxy.client()
        for _ in range(10):
            await client.get()
        assert (await client.reply()).status == 403
        await client.ended()
        for _ in range(10):
            await client.get()
        await eventually(lambda: not proxy.forwarder.downstreams)
        assert a.accepted == 0
        assert proxy.forwarder.refused == {"denied": 1}


async def test_half_closed_it_is_answered_too() -> None:
    async with proxied(limits=Limits(deny_networks=HERE)) as (proxy, _):
        client = await proxy.client()
        client.half_close()
        assert (await client.reply()).status == 403
        await client.ended()


async def test_behind_a_trusted_proxy_it_is_the_client_that_may_come_or_not() -> None:
    limits = Limits(deny_networks="192.0.2.0/24, 2001:db8::/32")
    async with proxied(limits=limits, trust=PROXIES) as (proxy, (a,)):
        client = await proxy.client()
        assert (await answered(client, a, "X-Forwarded-For: 198.51.100.1")).status == 200
        for denied in ("192.0.2.7", "2001:db8::7", "198.51.100.1, 192.0.2.7"):
            await client.get("/", f"X-Forwarded-For: {denied}")
            assert (await client.reply()).status == 403
        assert proxy.forwarder.refused == {"denied": 3}  # on a connection that stays


async def test_a_stranger_is_not_who_it_says_it_is() -> None:
    async with proxied(limits=Limits(deny_networks="192.0.2.0/24")) as (proxy, (a,)):
        client = await proxy.client()
        assert (await answered(client, a, "X-Forwarded-For: 192.0.2.7")).status == 200
    async with proxied(limits=Limits(allow_networks="192.0.2.0/24")) as (proxy, (a,)):
        client = await proxy.client()
        await client.get("/", "X-Forwarded-For: 192.0.2.7")
        assert (await client.reply()).status == 403


# Connections.


async def test_connections_past_the_limit_are_answered_and_closed() -> None:
    async with proxied([], limits=Limits(client_connections=2)) as (proxy, _):
        one, two, three = [await proxy.client() for _ in range(3)]
        for client in (one, two):
            await client.get()
            assert (await client.reply()).status == 503
        await three.get()
        reply = await three.reply()
        assert (reply.status, reply.body) == (503, b"503 Service Unavailable: client connections\n")
        assert reply.fields[b"connection"] == b"close"
        assert reply.fields[b"retry-after"] == b"1"
        await three.ended()
        assert proxy.forwarder.refused == {"no_backend": 2, "client_connections": 1}
        await one.get()
        assert (await one.reply()).fields.get(b"connection") is None  # it stays


async def test_a_connection_that_ends_makes_room() -> None:
    async with proxied([], limits=Limits(client_connections=1)) as (proxy, _):
        for turn in range(5):
            client = await proxy.client()
            await client.get()
            assert (await client.reply()).body == b"503 Service Unavailable: no backend\n", turn
            client.reset() if turn % 2 else client.close()
            await eventually(lambda: not proxy.forwarder.downstreams)


async def test_connections_of_all_workers_count() -> None:
    alone = ledger_of_one()
    both = [alone.connections[0], [0] * len(alone.connections[0])]  # type: ignore[arg-type]
    limits = Limits(client_connections=3)
    gates = [gate_of(limits, Ledger(alone.rates, both, own, alone.secret)) for own in (0, 1)]
    one, other = (gate for gate in gates if gate is not None)
    client, _ = one.client("192.0.2.7")
    assert [one.arrive(client), other.arrive(client), one.arrive(client)] == [True] * 3
    assert not other.arrive(client)
    assert other.arrive(other.client("192.0.2.8")[0])
    one.leave(client)
    assert other.arrive(client)


async def test_a_trusted_proxy_may_have_any_number() -> None:
    limits = Limits(client_connections=1)
    async with proxied([], limits=limits, trust=PROXIES) as (proxy, _):
        for _ in range(3):
            client = await proxy.client()
            await client.get()
            assert (await client.reply()).body == b"503 Service Unavailable: no backend\n"


# Requests.


async def test_requests_past_the_rate_are_told_when_to_come_again() -> None:
    async with proxied([], limits=Limits(rate_limit=0.01, rate_burst=2)) as (proxy, _):
        client = await proxy.client()
        statuses = []
        for _ in range(4):
            await client.get()
            reply = await client.reply()
            statuses.append(reply.status)
        assert statuses == [503, 503, 429, 429]
        assert reply.body == b"429 Too Many Requests: rate limit\n"
        assert 98 <= int(reply.fields[b"retry-after"]) <= 100
        assert b"connection" not in reply.fields
        assert proxy.forwarder.refused == {"no_backend": 2, "rate_limit": 2}
        proxy.forwarder.access_log.flush()  # type: ignore[union-attr]
        row = logged(proxy.lines)[-1]
        assert (row["status"], row["method"], row["backend"]) == (429, "GET", None)


async def test_another_connection_is_no_way_around_it() -> None:
    async with proxied([], limits=Limits(rate_limit=0.01, rate_burst=2)) as (proxy, _):
        statuses = []
        for _ in range(3):
            client = await proxy.client()
            await client.get()
            statuses.append((await client.reply()).status)
        assert statuses == [503, 503, 429]


async def test_a_limited_client_may_go_on_when_its_time_has_come() -> None:
    async with proxied([], limits=Limits(rate_limit=5, rate_burst=1)) as (proxy, _):
        client = await proxy.client()

        async def admitted() -> bool:
            await client.get()
            return (await client.reply()).status == 503

        assert await admitted()
        assert not await admitted()
        async with asyncio.timeout(scaled(5)):
            while not await admitted():
                pass


@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_of_a_limited_request_is_not_the_next_request(whole: bool) -> None:
    async with proxied([], limits=Limits(rate_limit=0.01, rate_burst=1)) as (proxy, _):
        client = await proxy.client()
        await client.get()
        await client.reply()
        body = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
        client.send(head + (body if whole else body[:5]))
        reply = await client.reply()
        assert reply.status == 429
        if whole:
            await client.get()
            assert (await client.reply()).status == 429
        else:
            assert reply.fields[b"connection"] == b"close"
            client.send(body[5:])
            await client.ended()


async def test_a_pipeline_is_counted_request_by_request() -> None:
    async with proxied([], limits=Limits(rate_limit=0.01, rate_burst=3)) as (proxy, _):
        client = await proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 6)
        assert [(await client.reply()).status for _ in range(6)] == [503] * 3 + [429] * 3


async def test_behind_a_trusted_proxy_each_client_has_its_own() -> None:
    limits = Limits(rate_limit=0.01, rate_burst=1, rate_prefix_v4=24)
    async with proxied([], limits=limits, trust=PROXIES) as (proxy, _):
        client = await proxy.client()
        statuses = []
        for ip in ("192.0.2.1", "192.0.2.2", "192.0.3.1", "2001:db8::1", "2001:db8::2", "nobody"):
            await client.get("/", f"X-Forwarded-For: {ip}")
            statuses.append((await client.reply()).status)
        assert statuses == [503, 429, 503, 503, 429, 503]
        assert proxy.forwarder.refused["rate_limit"] == 2


async def test_a_limited_request_has_no_share_in_anything() -> None:
    """No backend was chosen, and no counter of one moves."""
    loop = ManualLoop()
    limits = Limits(rate_limit=0.01, rate_burst=1)
    forwarder = WiredForwarder(config(limits=limits), loop)
    backend = Backend("a", "a", "192.0.2.80")
    forwarder.apply(Snapshot(revision=1, generation=1, routes=(backend,)))
    downstream, wire = forwarder.accept()
    for _ in range(2):
        wire.deliver(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        if forwarder.asked_for:
            _, back = forwarder.connected()
            back.deliver(OK)
    pool = forwarder.pools["a"]
    assert wire.sent.count(b"HTTP/1.1 200 ") == 1
    assert wire.sent.count(b"HTTP/1.1 429 ") == 1
    assert (pool.codes, pool.in_flight, forwarder.live) == ([0, 1, 0, 0, 0], 0, 0)
    forwarder.close()
    assert downstream.deadline > 0


def test_addresses_that_were_looked_at_are_remembered_within_bounds() -> None:
    gate = gate_of(Limits(deny_networks="10.0.0.0/8"), None)
    assert gate is not None
    for number in range(10_000):
        _, may_come = gate.client(f"10.0.{number // 250}.{number % 250}")
        assert not may_come
    assert len(gate._clients) <= 4096


async def test_a_worker_that_drains_waits_for_nobody_who_was_turned_away() -> None:
    timeouts = replace(Timeouts(), client_idle_timeout_s=60)
    async with proxied(limits=Limits(deny_networks=HERE), timeouts=timeouts) as (proxy, _):
        client = await proxy.client()
        await eventually(lambda: len(proxy.forwarder.downstreams) == 1)
        await proxy.forwarder.drain(30)
        assert not proxy.forwarder.downstreams
        await client.gone()
