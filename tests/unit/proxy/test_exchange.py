"""One request after the other through real sockets: what arrives, and what comes back."""

from __future__ import annotations

import re

import pytest

from tests.support.deadlines import eventually
from tests.support.scripted import Peer, proxied

HOP = (
    rb"X-Forwarded-For: 127\.0\.0\.1\r\nX-Forwarded-Proto: http\r\n"
    rb"Forwarded: for=127\.0\.0\.1;proto=http\r\nVia: 1\.1 lbctl\r\n"
    rb"X-Request-Id: [0-9a-f]{16}-[0-9a-f]+\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(peer: Peer, body: bytes, *lines: bytes) -> None:
    more = b"".join(line + b"\r\n" for line in lines)
    peer.send(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (more, len(body), body))


async def test_a_request_is_forwarded_and_its_answer_comes_back() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get("/x?y=1", "Accept: */*")
        peer, head = await a.request()
        assert re.fullmatch(
            rb"GET /x\?y=1 HTTP/1.1\r\nHost: site\r\nAccept: \*/\*\r\nX-Forwarded-Host: site\r\n"
            + HOP,
            head,
        )
        assert proxy.pool(a).in_flight == 1
        answer(peer, b"hello", b"X-Served-By: 10.0.0.1")
        reply = await client.reply()
        assert (reply.status, reply.body) == (200, b"hello")
        assert reply.fields[b"x-served-by"] == b"10.0.0.1"
        assert proxy.pool(a).codes == [0, 1, 0, 0, 0]
        assert sum(proxy.pool(a).buckets) == 1
        assert proxy.in_flight() == 0


async def test_both_sides_are_kept_alive_and_the_last_used_connection_is_taken_first() -> None:
    async with proxied() as (proxy, (a,)):
        one, two = await proxy.client(), await proxy.client()
        await one.get("/1")
        first, _ = await a.request()
        await two.get("/2")
        second, _ = await a.request()
        first.send(OK)
        assert (await one.reply()).status == 200
        second.send(OK)
        assert (await two.reply()).status == 200
        await one.get("/3")
        assert (await second.head()).startswith(b"GET /3 ")
        second.send(OK)
        assert (await one.reply()).body == b"ok"
        assert a.accepted == 2
        assert len(proxy.pool(a).open) == 2


async def test_a_pipeline_is_answered_in_order_one_request_at_a_time() -> None:
    async with proxied(["a", "b"]) as (proxy, backends):
        client = await proxy.client()
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(6)))
        turns = {one.backend.name: one for one in backends}
        peers: dict[str, Peer] = {}
        order = []
        for number in range(6):
            busy = await eventually(
                lambda: [n for n, one in turns.items() if proxy.pool(one).in_flight]
            )
            assert len(busy) == 1
            name = busy[0]
            if name not in peers:
                peers[name] = await turns[name].connection()
            head = await peers[name].head()
            assert head.startswith(b"GET /%d " % number)
            order.append(name)
            answer(peers[name], b"%d" % number)
            assert (await client.reply()).body == b"%d" % number
        assert order in (["a", "b"] * 3, ["b", "a"] * 3)


async def test_a_pipeline_of_a_half_closed_client_is_answered_to_its_end() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(3)))
        client.half_close()
        peer = await a.connection()
        for number in range(3):
            assert (await peer.head()).startswith(b"GET /%d " % number)
            answer(peer, b"%d" % number)
            assert (await client.reply()).body == b"%d" % number
        await client.ended()


async def test_a_pipeline_of_refused_requests_is_no_recursion() -> None:
    async with proxied([]) as (proxy, _):
        client = await proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 2000)
        for _ in range(2000):
            assert (await client.reply()).status == 503


@pytest.mark.parametrize("status", [b"200 OK", b"304 Not Modified"])
async def test_an_answer_to_head_and_a_304_have_a_length_but_no_body(status: bytes) -> None:
    method = b"HEAD" if status.startswith(b"200") else b"GET"
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send((method + b" / HTTP/1.1\r\nHost: h\r\n\r\n") * 2)
        peer = await a.connection()
        for _ in range(2):  # on the same connections
            await peer.head()
            peer.send(b"HTTP/1.1 %b\r\nContent-Length: 45\r\n\r\n" % status)
            reply = await client.reply(to=b"HEAD")
            assert reply.fields[b"content-length"] == b"45"


async def test_a_204_has_neither() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n")
        reply = await client.reply()
        assert (reply.status, b"content-length" in reply.fields) == (204, False)
        await client.get()
        await peer.head()


@pytest.mark.parametrize("body", [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", b"x"])
async def test_what_follows_a_bodiless_answer_never_meets_the_next_request(body: bytes) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n" + body)
        assert (await client.reply()).status == 304
        await client.get("/next")
        fresh, head = await a.request()
        assert head.startswith(b"GET /next ")
        fresh.send(OK)
        assert (await client.reply()).body == b"ok"


async def test_bytes_that_nobody_asked_for_close_an_idle_connection() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(OK)
        await client.reply()
        peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await peer.gone()
        await client.get("/next")
        fresh, _ = await a.request()
        fresh.send(OK)
        assert (await client.reply()).status == 200


async def test_chunks_go_through_both_ways() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r")
        peer, head = await a.request()
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        assert b"Content-Length" not in head
        client.send(b"\nhello\r\n")
        await peer.expect(b"5\r\nhello\r\n")
        client.send(b"0\r\nDigest: x\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n")
        await peer.expect(b"0\r\nDigest: x\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert b"\r\nTransfer-Encoding: chunked\r\n" in await client.head()
        await client.expect(b"3\r\nabc\r\n")
        peer.send(b"2;x=y\r\nde\r\n0\r\n\r\n")
        await client.expect(b"2;x=y\r\nde\r\n0\r\n\r\n")
        assert (await peer.head()).startswith(b"GET /next ")
        peer.send(OK)
        assert (await client.reply()).body == b"ok"
        assert a.accepted == 1


async def test_a_body_of_known_length_is_streamed_and_what_follows_is_the_next_request() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"PUT /f HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n01234")
        peer, head = await a.request()
        assert b"\r\nContent-Length: 10\r\n" in head
        await peer.expect(b"01234")
        client.send(b"56789GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
        await peer.expect(b"56789")
        peer.send(OK)
        assert (await client.reply()).status == 200
        assert (await peer.head()).startswith(b"GET /next ")
        peer.send(OK)
        assert (await client.reply()).status == 200


async def test_a_client_of_http_1_0_gets_chunks_decoded_and_the_connection_closed() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        peer, head = await a.request()
        assert head.startswith(b"GET / HTTP/1.1\r\nHost: \r\n")
        assert b"keep-alive" not in head
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")  # unknown to HTTP/1.0
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;e\r\nd")
        peer.send(b"e\r\n0\r\nDigest: z\r\n\r\n")
        reply = await client.reply()
        assert reply.body == b"abcde"
        assert reply.fields[b"connection"] == b"close"
        assert b"transfer-encoding" not in reply.fields


async def test_a_client_of_http_1_0_may_keep_alive() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"GET /1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
        peer, _ = await a.request()
        peer.send(OK)
        assert (await client.reply()).fields[b"connection"] == b"keep-alive"
        client.send(b"GET /2 HTTP/1.0\r\n\r\n")
        await peer.head()
        peer.send(OK)
        assert (await client.reply()).fields[b"connection"] == b"close"
        await client.ended()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_body_that_ends_with_the_connection_ends_both(version: bytes) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(b"HTTP/%b 200 OK\r\nX: y\r\n\r\nsome" % version)
        head = await client.head()
        assert b"\r\nConnection: close\r\n" in head
        await client.expect(b"some")
        peer.send(b" more")
        peer.close()
        assert await client.rest() == b" more"
        assert proxy.pool(a).codes == [0, 1, 0, 0, 0]


async def test_an_answer_longer_than_declared_is_cut_there_and_its_connection_closed() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef")
        assert (await client.reply()).body == b"abc"
        await peer.gone()
        await client.get("/next")
        fresh, _ = await a.request()
        fresh.send(OK)
        assert (await client.reply()).body == b"ok"


async def test_a_backend_that_says_close_is_not_asked_again_on_that_connection() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        answer(peer, b"x", b"Connection: close")
        reply = await client.reply()
        assert b"connection" not in reply.fields
        await peer.gone()
        await client.get("/next")
        fresh, _ = await a.request()
        fresh.send(OK)
        assert (await client.reply()).body == b"ok"


async def test_interim_answers_are_passed_on() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nConnection: x-y\r\nX-Y: 1\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" + OK)
        assert (await client.reply()).status == 102
        assert (await client.reply()).body == b"ok"
        assert proxy.pool(a).codes == [0, 1, 0, 0, 0]


async def test_expect_100_continue_from_end_to_end() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        peer, head = await a.request()
        assert b"\r\nexpect: 100-continue\r\n" in head
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (await client.reply()).status == 100
        client.send(b"body")
        await peer.expect(b"body")
        peer.send(OK)
        assert (await client.reply()).status == 200
        await client.get("/next")
        await peer.head()


async def test_an_early_answer_reaches_a_client_that_still_sends() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 90000000\r\n\r\nstart")
        peer, _ = await a.request()
        await peer.expect(b"start")
        peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        client.send(b"x" * 1_000_000)  # must not make a reset overtake the answer
        reply = await client.reply()
        assert (reply.status, reply.body) == (413, b"big")
        assert reply.fields[b"connection"] == b"close"
        await peer.gone()
        await client.ended()


async def test_a_half_closed_client_is_still_answered() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        client.half_close()
        peer, _ = await a.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        await client.head()
        await client.expect(b"abc")
        peer.send(b"def")
        await client.expect(b"def")
        await client.ended()


@pytest.mark.parametrize("cut", [b"G", b"GET / HTTP/1.1\r\nHost", b"\r\n", b""])
async def test_a_client_that_ends_before_its_request_is_closed_quietly(cut: bytes) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(cut)
        client.half_close()
        await client.ended()
        assert a.accepted == 0


async def test_a_client_that_ends_before_its_body_takes_the_request_back() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
        peer, _ = await a.request()
        client.half_close()
        await peer.gone()
        await client.gone()
        assert proxy.in_flight() == 0


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_requests_in_pieces_of_any_size(size: int) -> None:
    message = (
        b"\r\n\r\nPOST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4\r\nwiki\r\n0\r\n\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()

        async def send() -> None:
            for at in range(0, len(message), size):
                client.send(message[at : at + size])
                await client.sent()

        await send()
        peer, head = await a.request()
        assert head.startswith(b"POST /a ")
        await peer.expect(b"4\r\nwiki\r\n0\r\n\r\n")
        peer.send(OK)
        assert (await client.reply()).status == 200
        assert (await peer.head()).startswith(b"GET /b ")
        peer.send(OK)
        assert (await client.reply()).status == 200


async def test_an_answer_in_pieces_is_the_same_answer() -> None:
    message = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    )
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get()
        peer, _ = await a.request()
        for at in range(len(message)):
            peer.send(message[at : at + 1])
            await peer.sent()
        assert (await client.reply()).status == 100
        reply = await client.reply()
        assert (reply.body, reply.fields[b"x"]) == (b"ab", b"y")
        await client.get("/next")
        assert (await peer.head()).startswith(b"GET /next ")


async def test_what_a_client_claims_about_its_origin_is_replaced() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        await client.get(
            "/",
            "X-Forwarded-For: 6.6.6.6",
            "x_forwarded_for: 6.6.6.6",
            "X-Forwarded_Host: evil",
            "X-FORWARDED-PROTO: https",
            "X-Forwarded: for=6.6.6.6",
            "Forwarded: for=6.6.6.6",
            "X-Request-Id: mine",
            "X_Request_Id: mine",
            "Proxy: http://evil",
            "Connection: X-Forwarded-For, Cookie, X-Mine, close, authorization, Host",
            "X-Mine: dropped",
            "Cookie: kept",
            "Authorization: kept",
            "TE: trailers",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
            "Via: 1.0 other",
            "Keep-Alive: 5",
            "Proxy-Connection: keep-alive",
        )
        peer, head = await a.request()
        assert re.fullmatch(
            rb"GET / HTTP/1.1\r\nHost: site\r\ncookie: kept\r\nauthorization: kept\r\n"
            rb"via: 1.0 other\r\nX-Forwarded-Host: site\r\n" + HOP,
            head,
        )
        peer.send(OK)
        assert (await client.reply()).fields[b"connection"] == b"close"
        await client.ended()


async def test_an_absolute_target_is_forwarded_in_origin_form() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(b"GET http://Site:80/x?y HTTP/1.1\r\nHost: site:80\r\n\r\n")
        peer, head = await a.request()
        assert head.startswith(b"GET /x?y HTTP/1.1\r\nHost: Site:80\r\n")
        peer.send(OK)
        assert (await client.reply()).status == 200


async def test_nobody_in_rotation_is_a_503_and_the_connection_stays_open() -> None:
    async with proxied([]) as (proxy, _):
        a = await proxy.backend("a")
        client = await proxy.client()
        await client.get()
        reply = await client.reply()
        assert (reply.status, reply.fields[b"retry-after"]) == (503, b"1")
        assert reply.body == b"503 Service Unavailable: no backend\n"
        assert b"connection" not in reply.fields
        client.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.reply(to=b"HEAD")).status == 503
        proxy.route(a)
        await client.get()
        peer, _ = await a.request()
        peer.send(OK)
        assert (await client.reply()).body == b"ok"
        assert proxy.forwarder.refused == {"no_backend": 2}


async def test_a_503_to_a_request_with_its_body_on_the_way_closes() -> None:
    async with proxied([]) as (proxy, _):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nabc")
        reply = await client.reply()
        assert (reply.status, reply.fields[b"connection"]) == (503, b"close")
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 40)  # body, not requests
        await client.ended()
        assert proxy.forwarder.refused == {"no_backend": 1}
