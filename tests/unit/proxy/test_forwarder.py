"""Routes that change under load, worker drain, and that nothing is ever left in flight."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from dataclasses import replace

import pytest

from lbctl.config import Limits, Timeouts
from lbctl.proxy.upstream import Upstream
from tests.support.deadlines import eventually, scaled
from tests.support.scripted import Client, Peer, Proxy, ScriptedBackend, proxied, step

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_requests_go_round_over_the_backends() -> None:
    async with proxied(["a", "b", "c"]) as (proxy, backends):
        servants = [asyncio.create_task(serve(one)) for one in backends]
        client = await proxy.client()
        for _ in range(9):
            await client.get()
            assert (await client.reply()).status == 200
        assert [proxy.pool(one).codes[1] for one in backends] == [3, 3, 3]
        for one in servants:
            one.cancel()


async def test_a_backend_that_leaves_gets_no_new_request_and_finishes_what_it_has() -> None:
    async with proxied(["a"]) as (proxy, (a,)):
        b = await proxy.backend("b")
        one, two, three = [await proxy.client() for _ in range(3)]
        await one.get("/1")
        busy, _ = await a.request()
        await two.get("/2")
        resting, _ = await a.request()
        resting.send(OK)
        await two.reply()
        proxy.route(b)
        await resting.ended()  # an idle connection is closed at once
        await three.get("/3")
        peer, head = await b.request()
        assert head.startswith(b"GET /3 ")
        peer.send(OK)
        await three.reply()
        assert (proxy.pool(a).in_flight, proxy.settled) == (1, 0)
        proxy.forwarder.forget("id-a")
        assert "id-a" in proxy.forwarder.pools  # not yet
        busy.send(OK)
        assert (await one.reply()).body == b"ok"
        await busy.gone()  # and not kept for later
        assert (proxy.pool(a).in_flight, proxy.settled) == (0, 1)
        assert proxy.pool(a).codes[1] == 2
        proxy.forwarder.forget("id-a")
        assert "id-a" not in proxy.forwarder.pools
        await one.get("/4")
        assert (await peer.head()).startswith(b"GET /4 ")
        assert a.accepted == 2


async def test_a_backend_that_comes_back_goes_on_counting() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        for turn in range(2):
            proxy.route(a)
            await client.get()
            peer, _ = await a.request()
            peer.send(OK)
            await client.reply()
            proxy.route()
            assert proxy.pool(a).codes[1] == turn + 1


async def test_a_backend_with_a_new_address_keeps_its_counters_not_its_connections() -> None:
    async with proxied() as (proxy, (old,)):
        new = await proxy.backend("a")
        assert new.backend.id == old.backend.id
        one, two = await proxy.client(), await proxy.client()
        await one.get("/1")
        busy, _ = await old.request()
        await two.get("/2")
        resting, _ = await old.request()
        resting.send(OK)
        await two.reply()
        proxy.route(new)
        pool = proxy.pool(new)
        await resting.ended()
        assert pool.in_flight == 1
        busy.send(OK)
        assert (await one.reply()).status == 200
        await busy.gone()
        for client in (one, two):
            await client.get("/new")
            peer, _ = await new.request()
            peer.send(OK)
            assert (await client.reply()).status == 200
            peer.close()
            await eventually(lambda: not pool.open)
        assert (pool.codes[1], pool.in_flight, old.accepted) == (4, 0, 2)


@pytest.mark.parametrize("moment", ["made", "after"])
async def test_a_backend_that_leaves_just_as_a_connection_is_made(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Upstream.connection_made
    async with proxied(["a"]) as (proxy, (a,)):
        b = await proxy.backend("b")

        def connection_made(upstream: Upstream, transport: asyncio.BaseTransport) -> None:
            made(upstream, transport)
            if upstream.backend == a.backend:
                if moment == "made":
                    proxy.route(b)
                else:
                    asyncio.get_running_loop().call_soon(proxy.route, b)

        monkeypatch.setattr(Upstream, "connection_made", connection_made)
        client = await proxy.client()
        await client.get()
        peer, _ = await b.request()
        peer.send(OK)
        assert (await client.reply()).status == 200
        await eventually(lambda: a.accepted == 1)
        assert not proxy.pool(a).open
        assert len(proxy.pool(b).open) == 1


async def test_an_unchanged_backend_keeps_its_connections() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(OK)
        await client.reply()
        a.backend = replace(a.backend)  # equal, but read anew from a snapshot
        proxy.route(a)
        await client.get()
        await peer.head()
        assert a.accepted == 1


async def test_idle_connections_are_few_and_not_kept_for_ever() -> None:
    timeouts = Timeouts(upstream_idle_timeout_s=0.05)
    async with proxied(timeouts=timeouts, limits=Limits(idle_upstreams_per_backend=1)) as (
        proxy,
        (a,),
    ):
        clients = [await proxy.client() for _ in range(3)]
        peers = []
        for client in clients:
            await client.get()
            peers.append((await a.request())[0])
        for client, peer in zip(clients, peers, strict=True):
            peer.send(OK)
            await client.reply()
        for peer in peers:
            await peer.ended()
        assert proxy.pool(a).retries == {}


async def test_draining_ends_what_is_under_way_and_closes_who_rests() -> None:
    async with proxied() as (proxy, (a,)):
        resting, busy, late = [await proxy.client() for _ in range(3)]
        await resting.get()
        peer, _ = await a.request()
        peer.send(OK)
        await resting.reply()
        await busy.get("/busy")
        await peer.head()
        await eventually(lambda: len(proxy.forwarder.downstreams) == 3)
        proxy.listener.stop()
        drained = asyncio.create_task(proxy.forwarder.drain(scaled(10)))
        await asyncio.sleep(0)
        await late.get("/late")  # one more request is answered, and told to be the last
        second, _ = await a.request()
        second.send(OK)
        assert (await late.reply()).fields[b"connection"] == b"close"
        await late.ended()
        await resting.ended()
        assert not drained.done()
        peer.send(OK)
        assert (await busy.reply()).fields[b"connection"] == b"close"
        await busy.ended()
        await step(drained)


async def test_draining_gives_up_at_its_deadline() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        await a.request()
        await proxy.forwarder.drain(0.1)
        assert len(proxy.forwarder.downstreams) == 1
        proxy.forwarder.close()
        await client.gone()
        await proxy.at_rest()


# Everything at once.


async def test_a_worker_that_stood_still_does_not_blame_its_clients() -> None:
    """Their bytes came in time, and wait in the kernel while the clock is looked at."""
    timeouts = Timeouts(client_idle_timeout_s=1.0)
    async with proxied([], timeouts=timeouts) as (proxy, _):
        loop = asyncio.get_running_loop()
        hang, trigger = socket.socketpair()
        with hang, trigger, socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.setblocking(False)
            await eventually(lambda: len(proxy.forwarder.downstreams) == 1)

            def stand_still() -> None:
                hang.recv(1)
                time.sleep(1.0)
                client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                time.sleep(1.0)

            loop.add_reader(hang.fileno(), stand_still)
            trigger.send(b"x")
            answer = await step(loop.sock_recv(client, 1000))
            loop.remove_reader(hang.fileno())
        assert answer.startswith(b"HTTP/1.1 503 ")


async def serve(backend: ScriptedBackend, chance: random.Random | None = None) -> None:
    """Answer every request; with `chance`, in every way there is."""
    async with asyncio.TaskGroup() as group:
        while True:
            peer = await backend.next_connection()
            group.create_task(converse(peer, chance))


async def converse(peer: Peer, chance: random.Random | None) -> None:
    answers = [
        OK,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ]
    try:
        while True:
            head = await peer.head()
            if b"Content-Length: 4\r\n" in head:
                await peer.exactly(4)
            if chance is None:
                peer.send(OK)
                continue
            answer = chance.choice(answers)
            match chance.randrange(8):
                case 0:
                    peer.send(answer[: chance.randrange(len(answer))])
                    return peer.close() if chance.random() < 0.5 else peer.reset()
                case 1:
                    return peer.reset()
                case 2:
                    peer.send(b"HTTP/1.1 200 OK\r\n\r\nto the end")
                    return peer.close()
                case 3:
                    peer.send(b"nonsense\r\n\r\n")
                    return None
                case _:
                    peer.send(answer)
                    await peer.sent()
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        peer.close()


async def visit(proxy: Proxy, chance: random.Random) -> None:
    """One client: some requests, and any end."""
    client: Client = await proxy.client()
    try:
        for _ in range(chance.randrange(1, 6)):
            match chance.randrange(6):
                case 0:
                    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody")
                case 1:
                    client.send(b"GET / HTTP/1.0\r\n\r\n")
                case 2:
                    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 3)
                case 3:
                    client.send(b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbo")
                case _:
                    await client.get()
            match chance.randrange(6):
                case 0:
                    return client.reset()
                case 1:
                    client.half_close()
                    return await client.gone()
                case 2:
                    await client.some()
                    return client.close()
                case _:
                    async with asyncio.timeout(0.2):
                        await client.reply()
    except (OSError, asyncio.IncompleteReadError, RuntimeError):
        pass
    return client.close()


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens_nothing_stays_in_flight(seed: int) -> None:
    chance = random.Random(seed)
    problems: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    timeouts = Timeouts(response_timeout_s=0.2, body_idle_timeout_s=0.2)
    async with proxied(["a", "b", "c"], timeouts=timeouts) as (proxy, backends):
        gone = await proxy.backend("gone")
        gone.refuse()
        servants = [asyncio.create_task(serve(one, chance)) for one in backends]
        for _ in range(8):
            chosen = chance.sample([*backends, gone], chance.randrange(1, 5))
            proxy.route(*chosen)
            await step(asyncio.gather(*(visit(proxy, chance) for _ in range(10))))
        await eventually(lambda: not proxy.forwarder.downstreams)
        await proxy.at_rest()
        assert not [one for one in servants if one.done()]  # all were at work to the end
        for one in servants:
            one.cancel()
        await asyncio.gather(*servants, return_exceptions=True)
        answered = sum(sum(pool.codes) for pool in proxy.forwarder.pools.values())
        assert answered > 20
        for pool in proxy.forwarder.pools.values():
            assert sum(pool.codes) == sum(pool.buckets)
    assert problems == []
