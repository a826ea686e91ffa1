"""What a client over TLS may cost: before, in and behind its handshake; and what becomes of the
others where something in here fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.config import Limits, Trust
from lbctl.proxy import handshakes
from lbctl.proxy.downstream import Downstream
from lbctl.proxy.tls import TlsConnection, TlsPort
from tests.support.deadlines import eventually
from tests.support.pairs import OPENSSL, careless
from tests.support.tlsclient import TlsClient
from tests.unit.proxy.test_tls import GET, OK, credentials, ended, in_handshake, pair, secured

if TYPE_CHECKING:
    from lbctl.certificates import Credentials
    from tests.support.scripted import Proxy

__all__ = ["credentials", "pair"]  # the fixtures
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")
ONE = Limits(client_connections=1)


def open_one(proxy: Proxy) -> TlsConnection:
    """The one connection there is, whose handshake is over."""
    (downstream,) = proxy.forwarder.downstreams
    assert isinstance(downstream, Downstream)
    assert isinstance(downstream.transport, TlsConnection)
    return downstream.transport


def held(proxy: Proxy) -> int:
    """How many connections of this machine's are counted."""
    gate = proxy.forwarder.gate
    assert gate is not None
    return gate.held(gate.client("127.0.0.1")[0])


# Behind the handshake.


async def test_what_comes_behind_the_end_is_not_kept(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(GET)
        await client.end()
        sending = asyncio.create_task(client.send_raw(b"x" * 32 * 2**20))
        peer, _ = await backend.request()
        connection = open_one(proxy)
        await eventually(lambda: not connection.is_reading())
        connection.resume_reading()  # as who has room again would
        assert not connection.is_reading()
        for _ in range(100):
            connection.data_received(b"x" * 65_536)  # as if it had been read before
        assert connection._incoming.pending < 65_536
        peer.send(OK)
        assert await client.rest() == OK
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await sending
        client.close()


class Silent:
    """In the place of OpenSSL: records that say nothing to whoever reads."""

    def __init__(self, incoming: ssl.MemoryBIO) -> None:
        self.incoming = incoming
        self.most = self.taken = 0

    def read(self, _: int) -> bytes:
        size = len(self.incoming.read())
        self.most = max(self.most, size)
        self.taken += size
        raise ssl.SSLWantReadError


@pytest.mark.parametrize("in_one_go", [True, False])
async def test_records_that_say_nothing_are_borne_with_for_a_while(
    credentials: Credentials, in_one_go: bool
) -> None:
    """A KeyUpdate has 27 bytes, and costs as much as a small request."""
    update = b"\x17\x03\x03\x00\x16" + b"x" * 22
    async with secured(credentials) as (proxy, _):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await eventually(lambda: isinstance(next(iter(proxy.forwarder.downstreams)), Downstream))
        connection = open_one(proxy)
        silent = Silent(connection._incoming)
        connection._tls = silent  # type: ignore[assignment]
        if in_one_go:
            connection.data_received(update * 9000)
        else:
            for _ in range(60):
                connection.data_received(update)
        with pytest.raises(ConnectionError):
            await client.rest()
        assert silent.most <= 32 * len(update)
        assert silent.taken <= 64 * len(update)
        client.close()


async def test_large_and_small_requests_pay_for_a_new_key_now_and_then(
    credentials: Credentials,
) -> None:
    """Whoever talks for days may change keys for days."""
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        for number in range(100):
            await client.send(GET)
            if not number:
                peer, _ = await backend.request()
                connection = open_one(proxy)
            else:
                await peer.head()
            peer.send(OK)
            await client.until(b"ok")
            assert connection._idle == 0
        client.close()


async def test_many_records_need_no_buffer_for_all_of_them(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        size = 2**20
        await client.send(b"PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % size)
        peer, _ = await backend.request()
        connection = open_one(proxy)
        incoming = connection._incoming
        most = 0

        class Measured:
            pending = property(lambda _: incoming.pending)

            def write(self, data: bytes) -> int:
                nonlocal most
                written = incoming.write(data)
                most = max(most, incoming.pending)
                return written

        connection._incoming = Measured()  # type: ignore[assignment]
        sending = asyncio.create_task(client.send(b"x" * size))
        assert await peer.exactly(size) == b"x" * size
        await sending
        assert 0 < most <= 2 * 16_700
        client.close()


async def test_what_tls_says_behind_our_end_is_dropped(
    credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured(credentials) as (proxy, _):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(b"NONSENSE\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
        connection = open_one(proxy)  # it waits for the client's end
        connection._outgoing.write(b"an alert")
        connection._flush()
        assert not connection._outgoing.pending
        client.close()
    assert not any(one.exc_info for one in caplog.records)


# Limits of client networks.


async def test_a_handshake_counts_among_its_networks_connections(credentials: Credentials) -> None:
    async with secured(credentials, limits=ONE) as (proxy, backend):
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.tls_port)
        await in_handshake(proxy)
        assert held(proxy) == 1
        assert await ended(proxy.tls_port, b"") == b""  # not an answer, a close
        assert proxy.forwarder.refused == {"client_connections": 1}
        writer.close()
        await eventually(lambda: held(proxy) == 0)
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(GET)
        peer, _ = await backend.request()
        peer.send(OK)
        await client.until(b"ok")
        assert held(proxy) == 1  # once
        client.close()
        await eventually(lambda: not proxy.forwarder.downstreams)
        assert held(proxy) == 0


@pytest.mark.parametrize(
    "limits", [Limits(deny_networks="127.0.0.0/8"), Limits(allow_networks="192.0.2.0/24")]
)
async def test_who_may_not_come_has_no_handshake(credentials: Credentials, limits: Limits) -> None:
    async with secured(credentials, limits=limits) as (proxy, _):
        with pytest.raises(ConnectionError):
            await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await eventually(lambda: not proxy.forwarder.downstreams)
        assert proxy.forwarder.refused == {"denied": 1}


async def test_a_trusted_proxy_may_have_any_number(credentials: Credentials) -> None:
    trust = Trust(trusted_proxies="127.0.0.1")
    async with secured(credentials, limits=ONE, trust=trust) as (proxy, _):
        clients = [await TlsClient.made(proxy.tls_port, careless(), "a.test") for _ in range(3)]
        assert held(proxy) == 0
        for client in clients:
            client.close()


# Before the handshake, and in it.


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x01\xf0\x00",  # announces 126,976 bytes
        b"\x16\x03\x01\x02\x00\x10\x00\x00\x40",  # no ClientHello
        b"\x16\x03\x01\x40\x00\x01\x00\x3f\x00" + b"x" * 30_000,  # talks on unasked
    ],
)
async def test_what_no_client_begins_with_has_no_handshake(
    credentials: Credentials, said: bytes
) -> None:
    async with secured(credentials) as (proxy, _):
        assert proxy.tls is not None
        made: list[Any] = []
        proxy.tls.wrap = lambda *both: made.append(both)  # type: ignore[assignment]
        await ended(proxy.tls_port, said)
        await eventually(lambda: not proxy.forwarder.downstreams)
        assert proxy.forwarder.refused == {"tls": 1}
        assert made == []


async def test_half_a_hello_costs_its_bytes(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, _):
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.tls_port)
        connection = await in_handshake(proxy)
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        await eventually(lambda: len(connection._held) == 9)
        assert not connection._begun
        writer.close()


async def test_past_a_number_handshakes_wait(
    credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshakes, "BEGUN_LIMIT", 1)
    async with secured(credentials) as (proxy, _):
        stalled = await TlsClient.connected(proxy.tls_port, careless(), "a.test")
        with pytest.raises(ssl.SSLWantReadError):
            stalled.tls.do_handshake()
        await stalled.flush()
        first = await in_handshake(proxy)
        await eventually(lambda: first._begun and not first._queued)
        coming = asyncio.create_task(TlsClient.made(proxy.tls_port, careless(), "a.test"))
        leaving = await TlsClient.connected(proxy.tls_port, careless(), "a.test")
        with pytest.raises(ssl.SSLWantReadError):
            leaving.tls.do_handshake()
        await leaving.flush()
        assert proxy.tls is not None
        waiting = proxy.tls.handshakes._fresh
        await eventually(lambda: len(waiting) == 2)
        assert not any(one._begun for one in waiting)
        leaving.reset()
        await eventually(lambda: len(waiting) == 1)
        stalled.reset()
        client = await coming
        await eventually(lambda: not proxy.tls.handshakes._begun)  # type: ignore[union-attr]
        client.close()


# What may fail in here.


def failing(*_: object) -> Any:
    raise MemoryError


@pytest.mark.parametrize("where", ["queueing", "working", "beginning"])
async def test_a_failure_ends_those_it_meets_alone(
    credentials: Credentials, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async with secured(credentials) as (proxy, _):
        assert proxy.tls is not None
        with monkeypatch.context() as patch:
            if where == "queueing":
                patch.setattr(proxy.tls.handshakes._thread, "submit", failing)
            elif where == "working":
                patch.setattr(handshakes, "_shake", failing)
            else:
                patch.setattr(proxy.tls, "wrap", failing)
            with pytest.raises(ConnectionError):
                await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await eventually(lambda: not proxy.forwarder.downstreams)
        assert proxy.forwarder.refused == {"tls": 1}
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        client.close()


async def test_without_a_thread_a_worker_does_not_begin(
    credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    async with secured(credentials) as (proxy, _):
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            TlsPort(proxy.forwarder, credentials)
        monkeypatch.undo()
