"""What goes wrong: backends that refuse, hang, break off or talk nonsense, clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lbctl.config import Limits, Timeouts
from lbctl.model import Snapshot
from lbctl.proxy.upstream import Upstream
from tests.support.deadlines import eventually, scaled
from tests.support.scripted import Client, Peer, Proxy, ScriptedBackend, loopback, proxied, step

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"


async def primed(proxy: Proxy, client: Client, backend: ScriptedBackend) -> Peer:
    """An idle connection to this backend in its pool."""
    proxy.route(backend)
    await client.get("/prime")
    peer, _ = await backend.request()
    peer.send(OK)
    assert (await client.reply()).status == 200
    return peer


# Connections that were kept, and are no good any more.


async def test_an_idle_connection_that_was_closed_is_not_used_again() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        idle = await primed(proxy, client, a)
        idle.close()
        await eventually(lambda: not proxy.pool(a).open)
        client.send(POST + b"body")
        peer, _ = await a.request()
        await peer.expect(b"body")
        peer.send(OK)
        assert (await client.reply()).status == 200
        assert proxy.pool(a).retries == {}


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_get_on_a_stale_connection_goes_to_another_backend(how: str) -> None:
    async with proxied(["a", "b"]) as (proxy, (a, b)):
        client = await proxy.client()
        stale = await primed(proxy, client, a)
        proxy.route(a, b)
        await client.get("/again")
        turn = await eventually(lambda: [x for x in (a, b) if proxy.pool(x).in_flight])
        if turn == [b]:  # it is b's turn: then a is next
            (await b.request())[0].send(OK)
            await client.reply()
            await client.get("/again")
        assert (await stale.head()).startswith(b"GET /again ")
        stale.close() if how == "close" else stale.reset()
        peer, head = (await b.request()) if turn == [a] else (await b.connection(), b"")
        peer.send(OK)
        assert (await client.reply()).body == b"ok"
        assert head.startswith(b"GET /again ") or turn == [b]
        assert proxy.pool(a).retries == {"stale": 1}
        assert (proxy.pool(a).codes[1], proxy.pool(a).in_flight) == (1, 0)


async def test_where_there_is_no_other_it_gets_a_new_connection_to_the_same_one() -> None:
    async with proxied() as (proxy, (a,)):
        one, two = await proxy.client(), await proxy.client()
        await one.get()
        first, _ = await a.request()
        await two.get()
        second, _ = await a.request()
        for peer, client in ((first, one), (second, two)):
            peer.send(OK)
            await client.reply()
        await one.get("/again")
        await second.head()
        second.close()  # the first one is stale as well, but nobody knows yet: not to be tried
        fresh, head = await a.request()
        assert head.startswith(b"GET /again ")
        fresh.send(OK)
        assert (await one.reply()).status == 200
        assert a.accepted == 3


async def test_a_second_loss_is_a_502() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        stale = await primed(proxy, client, a)
        await client.get()
        await stale.head()
        stale.close()
        fresh, _ = await a.request()
        fresh.close()
        assert (await client.reply()).status == 502
        assert a.accepted == 2
        assert proxy.forwarder.refused == {"upstream_closed": 1}
        assert proxy.suspects == ["id-a"]


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"FOO"])
async def test_what_is_not_idempotent_is_never_sent_twice(method: bytes) -> None:
    async with proxied(["a", "b"]) as (proxy, (a, b)):
        client = await proxy.client()
        stale = await primed(proxy, client, a)
        client.send(method + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
        await stale.head()
        proxy.route(a, b)
        stale.close()
        assert (await client.reply()).status == 502
        assert b.accepted == 0


async def test_an_idempotent_request_with_a_body_is_not_sent_twice() -> None:
    async with proxied(["a", "b"]) as (proxy, (a, b)):
        client = await proxy.client()
        stale = await primed(proxy, client, a)
        client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
        await stale.head()
        proxy.route(a, b)
        stale.close()
        assert (await client.reply()).status == 502
        assert b.accepted == 0


@pytest.mark.parametrize("start", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_nothing_is_sent_twice_once_a_byte_of_an_answer_came(start: bytes) -> None:
    async with proxied(["a", "b"]) as (proxy, (a, b)):
        client = await proxy.client()
        proxy.route(a)
        await client.get()
        peer, _ = await a.request()
        proxy.route(a, b)
        peer.send(start)
        peer.close()
        reply = await client.reply()
        if reply.status == 100:
            reply = await client.reply()
        assert reply.status == 502
        assert b.accepted == 0


# Connections that cannot be made.


async def test_a_refused_connection_goes_to_another_backend_whatever_the_method() -> None:
    async with proxied(["a", "b"]) as (proxy, (a, b)):
        a.refuse()
        for _ in range(2):  # at least one of the two has the turn of a
            client = await proxy.client()
            client.send(POST + b"body")
            peer, _ = await b.request()
            await peer.expect(b"body")
            peer.send(OK)
            assert (await client.reply()).status == 200
            peer.close()
            await eventually(lambda: not proxy.pool(b).open)
        assert set(proxy.pool(a).retries) == {"connect"}
        assert set(proxy.suspects) == {"id-a"}
        assert sum(proxy.pool(a).codes) == 0


async def test_all_refused_is_a_502() -> None:
    async with proxied(["a", "b"]) as (proxy, backends):
        for one in backends:
            one.refuse()
        client = await proxy.client()
        await client.get()
        reply = await client.reply()
        assert reply.status == 502
        assert reply.body == b"502 Bad Gateway: connect failed\n"
        assert sum(sum(proxy.pool(one).retries.values()) for one in backends) == 1


async def test_a_request_is_tried_on_three_backends_at_most() -> None:
    async with proxied(["a", "b", "c", "d"]) as (proxy, backends):
        for one in backends:
            one.refuse()
        client = await proxy.client()
        await client.get()
        assert (await client.reply()).status == 502
        assert len(proxy.suspects) == 3
        assert len(set(proxy.suspects)) == 3


async def test_a_connection_lost_before_it_was_used_counts_as_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: list[Upstream] = []

    class LostAtOnce(Upstream):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            if not lost:
                lost.append(self)
                self.transport.abort()

    async with proxied(["a", "b"]) as (proxy, (a, b)):
        monkeypatch.setattr("lbctl.proxy.forwarder.Upstream", LostAtOnce)
        client = await proxy.client()
        client.send(POST + b"body")
        await eventually(lambda: lost)
        other = b if lost[0].pool is proxy.pool(a) else a
        peer, _ = await other.request()
        await peer.expect(b"body")
        peer.send(OK)
        assert (await client.reply()).status == 200
        assert lost[0].pool.retries == {"connect": 1}


# Backends that hang, die, or are no HTTP.


async def test_no_answer_in_time_is_a_504() -> None:
    async with proxied(timeouts=Timeouts(response_timeout_s=0.05)) as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        reply = await client.reply()
        assert (reply.status, reply.fields[b"connection"]) == (504, b"close")
        await peer.gone()
        await client.ended()
        assert proxy.forwarder.refused == {"response_timeout": 1}
        assert proxy.suspects == ["id-a"]


async def test_a_body_that_stands_still_is_cut_off_with_a_reset() -> None:
    async with proxied(timeouts=Timeouts(body_idle_timeout_s=0.05)) as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await client.head()
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await peer.gone()


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_half_an_answer_never_looks_like_a_whole_one(
    start: bytes, how: str, version: bytes
) -> None:
    """A client of HTTP/1.0 sees the end of a decoded body in the end of the connection only."""
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"GET / HTTP/%b\r\nHost: h\r\n\r\n" % version)
        peer, _ = await a.request()
        peer.send(start)
        await client.head()
        await client.some()
        peer.close() if how == "close" else peer.reset()
        with pytest.raises(ConnectionResetError):
            await client.rest()
        assert proxy.in_flight() == 0
        assert proxy.suspects == ["id-a"]
        # Its head was sent, so that is what is counted and logged.
        assert proxy.pool(a).codes == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("seen", [True, False])
async def test_a_reset_does_not_end_a_close_delimited_body(*, seen: bool) -> None:
    """Not even right behind data, where the event loop takes it for an end of the stream."""
    loop = asyncio.get_running_loop()
    async with proxied() as (proxy, _):
        with loopback() as listening, socket.socket() as client:
            proxy.route(ScriptedBackend("a", listening.getsockname()[1]))
            client.setblocking(False)
            await step(loop.sock_connect(client, ("127.0.0.1", proxy.port)))
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            peer, _ = await step(loop.sock_accept(listening))
            assert (await step(loop.sock_recv(peer, 4096))).startswith(b"GET / ")
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
            received = b""
            while seen and not received.endswith(b"\r\n\r\n"):
                received += await step(loop.sock_recv(client, 4096))
            peer.send(b"half")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            with pytest.raises(ConnectionResetError):  # noqa: PT012 - one of several reads
                while await step(loop.sock_recv(client, 4096)):
                    pass
        assert proxy.suspects == ["id-a"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 33_000 + b"\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"garbage\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_http_is_a_502(answer: bytes) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(answer)
        reply = await client.reply()
        while reply.status == 100:
            reply = await client.reply()
        assert reply.status == 502
        assert reply.fields[b"connection"] == b"close"
        await client.ended()
        await peer.gone()
        assert proxy.suspects == ["id-a"]
        assert (a.accepted, proxy.in_flight(), len(proxy.pool(a).idle)) == (1, 0, 0)


async def test_a_broken_chunk_of_an_answer_cuts_it_off() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok")
        await client.head()
        await client.expect(b"2\r\nok")
        peer.send(b"0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await peer.gone()


# Clients that are slow, leave, or break the rules half way.


async def test_half_a_head_in_time_or_408() -> None:
    async with proxied(timeouts=Timeouts(head_timeout_s=0.05)) as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHo")
        reply = await client.reply()
        assert (reply.status, reply.fields[b"connection"]) == (408, b"close")
        await client.ended()
        assert a.accepted == 0
        assert proxy.forwarder.refused == {"head_timeout": 1}


async def test_bytes_of_a_head_do_not_extend_its_time() -> None:
    async with proxied(timeouts=Timeouts(head_timeout_s=0.5)) as (proxy, _):
        client = await proxy.client()
        client.send(b"GET / HTTP/1.1\r\n")

        async def trickle() -> None:
            while True:
                client.send(b"X: y\r\n")
                await asyncio.sleep(0.02)

        sender = asyncio.create_task(trickle())
        assert (await client.reply()).status == 408
        sender.cancel()


async def test_who_was_refused_and_does_not_close_is_closed_soon() -> None:
    async with proxied() as (proxy, _):
        client = await proxy.client()
        client.send(b"no HTTP\r\n\r\n")
        assert (await client.reply()).status == 400
        await client.ended()
        await eventually(lambda: not proxy.forwarder.downstreams)  # and not after a body's 60 s


async def test_a_client_at_rest_is_closed_quietly() -> None:
    async with proxied(timeouts=Timeouts(client_idle_timeout_s=0.05)) as (proxy, (a,)):
        fresh, used = await proxy.client(), await proxy.client()
        await used.get()
        peer, _ = await a.request()
        peer.send(OK)
        await used.reply()
        await fresh.ended()
        await used.ended()
        assert proxy.forwarder.refused == {}


async def test_half_a_body_in_time_or_408() -> None:
    async with proxied(timeouts=Timeouts(body_idle_timeout_s=0.05)) as (proxy, (a,)):
        client = await proxy.client()
        client.send(POST + b"ha")
        peer, _ = await a.request()
        assert (await client.reply()).status == 408
        await peer.gone()
        assert proxy.forwarder.refused == {"body_timeout": 1}
        assert proxy.suspects == []


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_takes_its_request_along(how: str) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nstart")
        await client.head()
        await client.expect(b"start")
        if how == "reset":
            client.reset()
        else:
            client.close()
            peer.send(b"x" * 10_000)  # only this shows that the other end is closed for good
            await client.gone()
            peer.send(b"x" * 10_000)
        await peer.gone()
        await proxy.at_rest()
        assert proxy.suspects == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_who_waits_for_a_connection_to_a_backend_that_leaves_goes_elsewhere(
    method: str,
) -> None:
    """A container that is gone answers no SYN: without that the client waits for the timeout."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        with full_queue(deaf):
            async with proxied(timeouts=Timeouts(connect_timeout_s=scaled(20))) as (proxy, (a,)):
                gone = replace(a.backend, id="gone", port=deaf.getsockname()[1])
                proxy.forwarder.apply(Snapshot(revision=50, generation=50, routes=(gone,)))
                client = await proxy.client()
                client.send(b"%b / HTTP/1.1\r\nHost: h\r\n\r\n" % method.encode())
                pool = proxy.forwarder.pools["gone"]
                await eventually(lambda: pool.in_flight == 1)
                proxy.forwarder.apply(Snapshot(revision=51, generation=51, routes=()))
                assert pool.in_flight == 1  # there is nobody else: it may still be made
                proxy.route(a)
                peer, head = await a.request()
                assert head.startswith(method.encode())
                peer.send(OK)
                assert (await client.reply()).status == 200
                assert pool.in_flight == 0
                assert pool.retries == {"connect": 1}
                assert not proxy.forwarder._connects  # nor does it fail when the backend is back


@contextlib.contextmanager
def full_queue(listening: socket.socket) -> Iterator[None]:
    """Nobody else can connect: the kernel drops what asks for it."""
    with contextlib.ExitStack() as held:
        while True:
            one = held.enter_context(socket.socket())
            one.settimeout(0.2)
            try:
                one.connect(listening.getsockname())
            except TimeoutError:
                break
        yield


async def test_a_client_that_leaves_while_a_connection_is_made_costs_nothing() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        client.reset()
        await eventually(lambda: not proxy.forwarder.downstreams)
        await proxy.at_rest()
        await eventually(lambda: proxy.pool(a).open == set(proxy.pool(a).idle))


async def test_a_body_that_breaks_the_rules_half_way_is_taken_back() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        peer, _ = await a.request()
        await peer.expect(b"2\r\nok\r\n")
        client.send(b"0x2\r\nok\r\n0\r\n\r\n")
        assert (await client.reply()).status == 400
        await client.ended()
        await peer.gone()
        assert proxy.forwarder.refused == {"chunk": 1}


async def test_a_head_of_any_size_does_not_fit() -> None:
    async with proxied(limits=Limits(head_limit_bytes=256, head_limit_fields=4)) as (proxy, _):
        for sent, status in (
            (b"GET /" + b"x" * 300, 414),
            (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 300, 431),
            (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"x: y\r\n" * 4 + b"\r\n", 431),
        ):
            client = await proxy.client()
            client.send(sent)
            assert (await client.reply()).status == status
            await client.ended()
        assert proxy.forwarder.refused == {
            "target_too_long": 1, "head_too_large": 1, "too_many_fields": 1,
        }  # fmt: skip


async def test_every_answer_is_logged_once_also_our_own() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get("/1")
        peer, _ = await a.request()
        peer.send(OK)
        await client.reply()
        client.send(b"BAD\r\n\r\n")
        assert (await client.reply()).status == 400
        proxy.route()
        other = await proxy.client()
        await other.get("/2")
        await other.reply()
        proxy.forwarder.access_log.flush()  # type: ignore[union-attr]
        rows = [json.loads(line) for line in "".join(proxy.lines).splitlines()]
        seen = [(r["method"], r["target"], r["status"], r["bytes"], r["backend"]) for r in rows]
        assert seen == [
            ("GET", "/1", 200, 2, "a"),
            (None, None, 400, len(b"400 Bad Request: malformed head\n"), None),
            ("GET", "/2", 503, len(b"503 Service Unavailable: no backend\n"), None),
        ]
