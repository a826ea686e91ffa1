"""Upgrades: what a client may change to, and what then goes through."""

from __future__ import annotations

import pytest

from lbctl.config import Limits, Timeouts, Trust
from tests.support.deadlines import eventually, scaled
from tests.support.scripted import Client, Peer, Proxy, ScriptedBackend, proxied

ASK = b"GET /chat HTTP/1.1\r\nHost: site\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def tunnel(proxy: Proxy, backend: ScriptedBackend) -> tuple[Client, Peer]:
    client = await proxy.client()
    client.send(ASK % b"websocket")
    peer, head = await backend.request()
    assert b"Connection: upgrade\r\nUpgrade: websocket\r\n" in head
    peer.send(SWITCH)
    answer = await client.head()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"Connection: upgrade\r\nUpgrade: websocket\r\n" in answer
    return client, peer


async def test_bytes_go_both_ways_whatever_they_are() -> None:
    async with proxied() as (proxy, (a,)):
        client, peer = await tunnel(proxy, a)
        for data in (b"\x00\xff", b"GET / HTTP/1.1\r\n\r\n", b"\r\n" * 100):
            client.send(data)
            await peer.expect(data)
            peer.send(data[::-1])
            await client.expect(data[::-1])
        assert proxy.pool(a).in_flight == 1
        client.close()
        await peer.ended()
        peer.close()
        await proxy.at_rest()
        assert proxy.pool(a).codes == [1, 0, 0, 0, 0]
        assert proxy.suspects == []


async def test_what_comes_with_the_heads_is_not_lost() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(ASK % b"WebSocket" + b"early")
        peer, _ = await a.request()
        peer.send(SWITCH + b"first")
        await client.head()
        await client.expect(b"first")
        await peer.expect(b"early")


@pytest.mark.parametrize("first", ["client", "backend"])
async def test_each_end_may_stop_sending_by_itself(first: str) -> None:
    async with proxied() as (proxy, (a,)):
        client, peer = await tunnel(proxy, a)
        one, other = (client, peer) if first == "client" else (peer, client)
        one.send(b"last words")
        one.half_close()
        assert await other.rest() == b"last words"
        other.send(b"answer")
        await one.expect(b"answer")
        other.half_close()
        await one.ended()
        await proxy.at_rest()
        await eventually(lambda: not proxy.pool(a).open)


@pytest.mark.parametrize("who", ["client", "backend"])
async def test_a_reset_of_either_end_ends_both(who: str) -> None:
    async with proxied() as (proxy, (a,)):
        client, peer = await tunnel(proxy, a)
        (client if who == "client" else peer).reset()
        await (peer if who == "client" else client).gone()
        await proxy.at_rest()


async def test_an_end_that_does_not_read_holds_the_other_back() -> None:
    limits = Limits(write_buffer_bytes=16_384)
    async with proxied(limits=limits) as (proxy, (a,)):
        client, peer = await tunnel(proxy, a)
        for sender, reader in ((client, peer), (peer, client)):
            sent = 0
            block = bytes(65_536)
            sender.writer.transport.set_write_buffer_limits(high=1)
            while sender.writer.transport.get_write_buffer_size() == 0 and sent < 1 << 28:
                sender.send(block)
                sent += len(block)
                await eventually(lambda: True)
            assert sent < 1 << 28, "all of it went somewhere"
            received = 0
            while received < sent:
                received += len(await reader.some())
            assert received == sent


async def test_a_tunnel_at_rest_is_ended_after_its_own_time() -> None:
    timeouts = Timeouts(tunnel_idle_timeout_s=scaled(0.6), client_idle_timeout_s=0.05)
    async with proxied(timeouts=timeouts) as (proxy, (a,)):
        client, peer = await tunnel(proxy, a)
        client.send(b"x")
        await peer.expect(b"x")
        await client.gone()
        await peer.gone()


async def test_a_protocol_that_is_not_listed_is_not_passed_on() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(ASK % b"h2c, x")
        peer, head = await a.request()
        assert b"pgrade" not in head
        peer.send(OK)
        assert (await client.reply()).status == 200
        client.send(ASK % b"h2c, websocket")
        assert b"Connection: upgrade\r\nUpgrade: websocket\r\n" in await peer.head()
        peer.send(OK)
        assert (await client.reply()).status == 200


@pytest.mark.parametrize(
    "answer",
    [
        SWITCH.replace(b"websocket", b"h2c"),
        SWITCH.replace(b"Connection: Upgrade\r\n", b""),
        SWITCH.replace(b"Upgrade: websocket\r\n", b""),
    ],
)
async def test_a_change_that_was_not_asked_for_is_a_502(answer: bytes) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(ASK % b"websocket")
        peer, _ = await a.request()
        peer.send(answer)
        assert (await client.reply()).status == 502
        await client.ended()


async def test_an_ordinary_answer_to_an_upgrade_is_one_and_the_next_request_counts() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(ASK % b"websocket" + b"GET /next HTTP/1.1\r\nHost: site\r\n\r\n")
        peer, _ = await a.request()
        peer.send(OK)
        assert (await client.reply()).body == b"ok"
        assert (await peer.head()).startswith(b"GET /next ")
        peer.send(OK)
        assert (await client.reply()).body == b"ok"


async def test_a_request_with_a_body_cannot_change_protocols() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        head = (ASK % b"websocket").replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n")
        client.send(head + b"hi")
        peer, seen = await a.request()
        assert b"pgrade" not in seen
        peer.send(SWITCH)
        assert (await client.reply()).status == 502


@pytest.mark.parametrize("listed", ["", "websocket", "websocket,"])
async def test_an_empty_name_is_no_protocol(listed: str) -> None:
    async with proxied(trust=Trust(upgrades=listed)) as (proxy, (a,)):
        client = await proxy.client()
        client.send(ASK % b"h2c, ,")
        peer, head = await a.request()
        assert b"pgrade" not in head
        peer.send(SWITCH.replace(b"websocket", b"x,"))
        assert (await client.reply()).status == 502
