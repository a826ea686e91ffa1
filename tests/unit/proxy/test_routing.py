"""How the policies meet the request path: keys, cookies, weights, newcomers."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lbctl.config import Balancing, Limits, Trust
from tests.support.deadlines import eventually
from tests.support.scripted import Client, Peer, Proxy, ScriptedBackend, proxied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def serve(backend: ScriptedBackend) -> None:
    """Answer everything with one's own name."""
    while True:
        peer = await backend.next_connection()
        asyncio.get_running_loop().create_task(converse(peer, backend.backend.name))


async def converse(peer: Peer, name: str) -> None:
    while not peer.at_end():
        try:
            await peer.next_head()
        except asyncio.IncompleteReadError:
            return
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name.encode()))


@asynccontextmanager
async def serving(
    names: str, balancing: Balancing | None = None, trust: Trust | None = None
) -> AsyncIterator[tuple[Proxy, dict[str, ScriptedBackend]]]:
    async with proxied(list(names), balancing=balancing, trust=trust) as (proxy, backends):
        tasks = [asyncio.ensure_future(serve(one)) for one in backends]
        try:
            yield proxy, dict(zip(names, backends, strict=True))
        finally:
            for task in tasks:
                task.cancel()


async def who(client: Client, *lines: str) -> str:
    """The name of the backend that answers."""
    await client.get("/", *lines)
    return (await client.reply()).body.decode()


@pytest.mark.parametrize("balance", ["round-robin", "least-connections", "p2c", "consistent-hash"])
async def test_every_policy_serves_and_heeds_weights(balance: str) -> None:
    settings = Balancing(balance=balance, hash_key="header:x-user", slow_start_s=0, hash_load=100)
    async with serving("abc", settings) as (proxy, named):
        named["c"].backend = replace(named["c"].backend, weight=4)
        proxy.route(*named.values())
        client = await proxy.client()
        seen = Counter([await who(client, f"X-User: {turn}") for turn in range(300)])
        if balance == "least-connections":  # without load, the heavy one beats the light ones
            assert seen == {"c": 300}
        else:
            assert seen.keys() == {"a", "b", "c"}
            assert 150 <= seen["c"] <= 250  # 4 of 6


@pytest.mark.parametrize(
    ("key", "line"), [("header:X-User", "x-user: {}"), ("cookie:user", "Cookie: a=b; user={}")]
)
async def test_the_same_key_goes_to_the_same_backend(key: str, line: str) -> None:
    async with serving("abcd", Balancing(balance="consistent-hash", hash_key=key)) as (proxy, _):
        client, other = await proxy.client(), await proxy.client()
        owners = [await who(client, line.format(user)) for user in range(20)]
        assert [await who(other, line.format(user)) for user in range(20)] == owners
        assert len(set(owners)) > 1
        # Without a key, everyone has a turn.
        assert len({await who(client) for _ in range(8)}) == 4


async def test_a_client_is_its_address_as_told_by_a_trusted_proxy() -> None:
    settings = Balancing(balance="consistent-hash", hash_key="ip")
    trust = Trust(trusted_proxies="127.0.0.0/8")
    async with serving("abcd", settings, trust) as (proxy, _):
        client = await proxy.client()
        lines = [f"X-Forwarded-For: 198.51.100.{last}" for last in range(20)]
        owners = [await who(client, line) for line in lines]
        assert len(set(owners)) > 1
        assert [await who(client, line) for line in lines] == owners
    async with serving("abcd", settings) as (proxy, _):
        client = await proxy.client()
        assert len({await who(client, line) for line in lines}) == 1


async def test_a_cookie_brings_a_client_back_until_its_backend_is_gone() -> None:
    async with serving("abc", Balancing(sticky_cookie="lb")) as (proxy, named):
        client = await proxy.client()
        await client.get("/")
        first = await client.reply()
        cookie, *attributes = first.fields[b"set-cookie"].decode().split("; ")
        assert attributes == ["Path=/", "HttpOnly", "SameSite=Lax"]
        assert "127.0.0.1" not in cookie
        for _ in range(6):
            await client.get("/", f"Cookie: {cookie}")
            again = await client.reply()
            assert again.body == first.body
            assert b"set-cookie" not in again.fields
        proxy.route(*(one for name, one in named.items() if name != first.body.decode()))
        await client.get("/", f"Cookie: {cookie}")
        moved = await client.reply()
        assert moved.body != first.body
        assert moved.fields[b"set-cookie"] != first.fields[b"set-cookie"]


def been_there(proxy: Proxy, age_s: float) -> None:
    """Make everybody so much older."""
    router, now = proxy.forwarder.router, proxy.forwarder.loop.time()
    pools = [pool for pool in proxy.forwarder.pools.values() if pool.routed]
    router.update([], now - age_s)
    router.update(pools, now - age_s)


async def test_a_newcomer_starts_with_little_and_the_first_ones_with_everything() -> None:
    async with serving("abc", Balancing(slow_start_s=3600)) as (proxy, named):
        pools = proxy.forwarder.pools
        been_there(proxy, 7200)
        proxy.route(named["a"], named["b"])
        proxy.route(*named.values())
        weights = {name: proxy.pool(one).weight for name, one in named.items()}
        # All three came as the first of an empty pool; c left and comes back as a newcomer.
        assert weights["a"] == weights["b"] == 1.0
        assert weights["c"] == pytest.approx(0.1, abs=0.01)
        client = await proxy.client()
        seen = Counter([await who(client) for _ in range(210)])
        assert 5 <= seen["c"] <= 15
        assert pools["id-c"].weight < 0.2


async def test_and_grows() -> None:
    async with serving("ab", Balancing(slow_start_s=1.0)) as (proxy, named):
        proxy.route(named["a"])
        been_there(proxy, 2)
        proxy.route(named["a"], named["b"])
        pool = proxy.pool(named["b"])
        assert pool.weight < 0.5
        await eventually(lambda: pool.weight == 1.0)


async def test_a_request_that_was_here_before_is_refused() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get("/", "Via: 1.1 other, 1.1 lbctl")
        assert (await client.reply()).status == 508
        assert a.accepted == 0
        assert proxy.forwarder.refused == {"loop": 1}


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 200), ("TRACE", 501)])
async def test_max_forwards_is_counted_down_and_ends_here(method: str, status: int) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        ask = f"{method} / HTTP/1.1\r\nHost: site\r\nMax-Forwards: %d\r\n\r\n"
        client.send((ask % 3).encode())
        peer, head = await a.request()
        assert b"Max-Forwards: 2\r\n" in head
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await client.reply()).status == 200
        client.send((ask % 0).encode())
        assert (await client.reply()).status == status
        assert a.accepted == 1


@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 11\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n"],
)
async def test_a_body_past_the_limit_is_a_413(body: bytes) -> None:
    async with proxied(limits=Limits(body_limit_bytes=10)) as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: site\r\n" + body)
        assert (await client.reply()).status == 413
        await client.ended()
        assert a.accepted == 0
        assert proxy.forwarder.refused == {"body_too_large": 1}


async def test_and_so_is_one_that_grows_past_it() -> None:
    async with proxied(limits=Limits(body_limit_bytes=20)) as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: site\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer, _ = await a.request()
        client.send(b"5\r\nhello\r\n")
        await peer.expect(b"5\r\nhello\r\n")
        client.send(b"5\r\nhello\r\n" * 2)
        assert (await client.reply()).status == 413
        await peer.gone()
