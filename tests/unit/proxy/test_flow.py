"""Backpressure: who reads slowly is waited for, in bounded memory."""

from __future__ import annotations

import asyncio
import socket

import pytest

from lbctl.config import Limits, Timeouts
from lbctl.proxy.downstream import Downstream
from tests.support.deadlines import eventually
from tests.support.scripted import Client, Peer, proxied

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_MUCH = 32 * 2**20
_KERNEL_BYTES = 20 * 2**20
"""More than the socket buffers on a way through take (two sending ones of 4 MiB and a receiving
one of 6 MiB, where the kernel's limits are the usual ones)."""
_BLOCK = b"x" * 65_536


async def flood(peer: Peer, size_bytes: int) -> int:
    """Send until the other side takes no more, or all is sent; returns how much it took."""
    sent = 0
    while sent < size_bytes:
        peer.send(_BLOCK)
        sent += len(_BLOCK)
        try:
            async with asyncio.timeout(0.3):
                await peer.writer.drain()
        except TimeoutError:
            break
    return sent


async def test_a_client_that_does_not_read_pauses_the_backend() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client(receive_buffer_bytes=8192)
        await client.get()
        peer, _ = await a.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _MUCH)
        sent = await flood(peer, _MUCH)
        assert sent < _KERNEL_BYTES
        (downstream,) = proxy.forwarder.downstreams
        assert isinstance(downstream, Downstream)
        held = downstream.transport.get_write_buffer_size()
        assert held < 65_536 + 2 * 262_144  # the limit, and what one read may add
        await client.head()

        async def rest() -> None:
            for _ in range((_MUCH - sent) // len(_BLOCK)):
                peer.send(_BLOCK)
                await peer.writer.drain()

        sending = asyncio.create_task(rest())
        while client.taken < _MUCH:
            assert await client.some()
        await sending
        await client.get("/next")
        await peer.head()


async def test_a_backend_that_does_not_read_pauses_the_client() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % _MUCH)
        peer, _ = await a.request()
        sent = await flood(client, _MUCH)
        assert sent < _KERNEL_BYTES

        async def rest() -> None:
            for _ in range((_MUCH - sent) // len(_BLOCK)):
                client.send(_BLOCK)
                await client.writer.drain()

        sending = asyncio.create_task(rest())
        peer.taken = 0
        while peer.taken < _MUCH:
            assert await peer.some()
        await sending
        peer.send(OK)
        assert (await client.reply()).status == 200


async def test_a_pipeline_behind_a_slow_answer_is_not_read_into_memory() -> None:
    async with proxied(limits=Limits(head_limit_bytes=4096)) as (proxy, (a,)):
        client = await proxy.client()
        request = b"GET / HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (b"y" * 1000)
        client.send(request)
        peer, _ = await a.request()
        total = 0
        while total < _MUCH:
            client.send(request * 60)
            total += len(request) * 60
            try:
                async with asyncio.timeout(0.3):
                    await client.writer.drain()
            except TimeoutError:
                break
        assert total < _KERNEL_BYTES
        for _ in range(100):  # and then they go on, one by one
            peer.send(OK)
            assert (await client.reply()).status == 200
            await peer.head()


async def test_a_client_paused_by_a_backend_is_read_again_after_an_early_answer() -> None:
    """All of the body is here, but not yet with the backend when that answers."""
    async with proxied(limits=Limits(write_buffer_bytes=1024)) as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(OK)
        await client.reply()
        (upstream,) = proxy.pool(a).idle
        transport = upstream.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        (downstream,) = proxy.forwarder.downstreams
        assert isinstance(downstream, Downstream)
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while not transport.get_write_buffer_size():
            client.send(b"200\r\n" + b"x" * 0x200 + b"\r\n")
            await asyncio.sleep(0.001)
        # One segment, so that it is read in one piece: the pause comes after the last byte.
        client.send(b"6000\r\n" + b"x" * 0x6000 + b"\r\n0\r\n\r\n")
        await eventually(lambda: upstream.clogged and downstream.body is None)
        peer.send(OK)
        assert (await client.reply()).status == 200
        await client.get("/next")
        fresh, head = await a.request()  # the old one is still busy with that body
        assert head.startswith(b"GET /next ")
        fresh.send(OK)
        assert (await client.reply()).status == 200


async def test_a_backend_that_stops_reading_is_its_own_fault() -> None:
    async with proxied(timeouts=Timeouts(body_idle_timeout_s=0.3)) as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % _MUCH)
        await a.request()
        await flood(client, _MUCH)
        assert (await client.reply()).status == 504
        assert proxy.suspects == ["id-a"]


async def test_a_client_that_reads_nothing_at_all_is_cut_off_in_the_end() -> None:
    async with proxied(timeouts=Timeouts(body_idle_timeout_s=0.3)) as (proxy, (a,)):
        # Not a stream: the event loop would take a reset behind unread data for an end.
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            peer, _ = await a.request()
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
            await flood(peer, _MUCH)
            await eventually(lambda: not proxy.forwarder.downstreams)
            with pytest.raises(ConnectionResetError):  # noqa: PT012 - one of many reads
                while client.recv(65_536):
                    pass
        await proxy.at_rest()


async def test_an_idle_client_with_an_unread_answer_does_not_stay_for_ever() -> None:
    """The whole answer is in the proxy's own buffer: the exchange is over, the client is not."""
    timeouts = Timeouts(body_idle_timeout_s=1.0, client_idle_timeout_s=0.1)
    limits = Limits(write_buffer_bytes=64 * 2**20)
    async with proxied(timeouts=timeouts, limits=limits) as (proxy, (a,)):
        client = await proxy.client(receive_buffer_bytes=4096)
        await client.get()
        peer, _ = await a.request()
        size = 16 * 2**20
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        peer.send(b"x" * size)
        await peer.sent()
        await proxy.at_rest()
        await eventually(lambda: not proxy.forwarder.downstreams)


async def test_a_backend_that_half_closes_with_unread_requests_does_not_hang_the_client() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % _MUCH)
        peer, _ = await a.request()
        await flood(client, _MUCH)
        peer.half_close()
        assert (await client.reply()).status == 502
        await proxy.at_rest()


SLOW = Timeouts(body_idle_timeout_s=0.5)


async def drip(client: Client) -> None:
    """One byte of a body every now and then, each well within the time a body may rest."""
    while True:
        client.send(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("rate", [500, 0])
async def test_a_body_that_drips_is_ended_in_time_unless_that_is_wanted(rate: int) -> None:
    limits = Limits(body_rate_min=rate)
    async with proxied(timeouts=SLOW, limits=limits) as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
        peer, _ = await a.request()
        dripping = asyncio.create_task(drip(client))
        if rate:
            assert (await client.reply()).status == 408
            dripping.cancel()
            assert proxy.forwarder.refused == {"body_too_slow": 1}
            await peer.gone()
        else:
            judged = proxy.forwarder.deadlines.now + 1.5
            await eventually(lambda: proxy.forwarder.deadlines.now > judged)
            dripping.cancel()
            assert proxy.in_flight() == 1


async def test_a_backend_that_takes_its_time_does_not_make_its_client_slow() -> None:
    limits = Limits(body_rate_min=1_000_000, write_buffer_bytes=16_384)
    timeouts = Timeouts(body_idle_timeout_s=1.0)
    async with proxied(timeouts=timeouts, limits=limits) as (proxy, (a,)):
        client = await proxy.client()
        body = bytes(8_000_000)
        head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
        client.send(head + body)
        peer, _ = await a.request()
        received = 0
        started = asyncio.get_running_loop().time()
        while received < len(body):  # slower than the client has to be
            received += len(await peer.some())
            if received < 4_000_000 and asyncio.get_running_loop().time() - started < 2.5:
                await asyncio.sleep(0.02)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await client.reply()).status == 200
