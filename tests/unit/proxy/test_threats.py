"""Requests that have broken other proxies, where no other file sends them already.

docs/testing.md lists every class of bad input, and the test that sends it.
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from lbctl.config import Limits, Timeouts
from tests.support.scripted import Peer, proxied

LENGTH, CODING, HEAD = "content_length", "transfer_encoding", "malformed_head"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n"


def post(*lines: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: h\r\n" + b"".join(lines) + b"\r\n"


async def everything(peer: Peer) -> bytes:
    """All that comes until the other side closes or resets."""
    received = b""
    with suppress(ConnectionError):
        while part := await peer.some():
            received += part
    return received


# Framing.

DOUBTFUL_REQUESTS = {
    "length of too many zeros": (post(b"Content-Length: %b5\r\n" % (b"0" * 18)), LENGTH),
    "length behind another space": (post(b"Content-Length: \xa05\r\n"), LENGTH),
    "unknown coding": (post(b"Transfer-Encoding: x\r\n"), CODING),
    "coding behind another space": (post(b"Transfer-Encoding: \xa0chunked\r\n"), CODING),
    "coding with a space in it": (post(b"Transfer-Encoding: chun ked\r\n"), CODING),
    "coding and nothing": (post(b"Transfer-Encoding: chunked,\r\n"), CODING),
    "nothing and coding": (post(b"Transfer-Encoding: , chunked\r\n"), CODING),
    "coding behind a form feed": (post(b"Transfer-Encoding: \x0cchunked\r\n"), HEAD),
    "coding folded with a tab": (post(b"Transfer-Encoding:\r\n\tchunked\r\n"), HEAD),
    "NUL in the target": (GET.replace(b"/ ", b"/\0 "), HEAD),
    "NUL in the method": (GET.replace(b"GET", b"G\0T"), HEAD),
    "NUL in a name": (post(b"X\0: y\r\n"), HEAD),
    "NUL at the end of a coding": (post(b"Transfer-Encoding: chunked\0\r\n"), HEAD),
    "CR in the target": (GET.replace(b"/ ", b"/\rX: "), HEAD),
    "CR in a name": (post(b"X\r: y\r\n"), HEAD),
    "CR before the head": (b"\r" + GET, HEAD),
    "LF before the head": (b"\n" + GET, HEAD),
    "size with a minus": (post(CHUNKED) + b"-5\r\nhello\r\n0\r\n\r\n", "chunk"),
    "size in digits of elsewhere": (post(CHUNKED) + b"\xd9\xa5\r\nhello\r\n0\r\n\r\n", "chunk"),
    "size of too many zeros": (post(CHUNKED) + b"0" * 15 + b"5\r\nhello\r\n0\r\n\r\n", "chunk"),
    "last size of too many zeros": (post(CHUNKED) + b"0" * 16 + b"\r\n\r\n", "chunk"),
    "extension without a name": (post(CHUNKED) + b"5;\r\nhello\r\n0\r\n\r\n", "chunk"),
    "quote without an end": (post(CHUNKED) + b'5;a="\r\nhello\r\n0\r\n\r\n', "chunk"),
    "LF in the last extension": (post(CHUNKED) + b"0;a\nX\r\n\r\n", "chunk"),
    "two CRs after the data": (post(CHUNKED) + b"5\r\nhello\r\r\n0\r\n\r\n", "chunk"),
    "CR only after the data": (post(CHUNKED) + b"5\r\nhello\r0\r\n\r\n", "chunk"),
    "trailer without a colon": (post(CHUNKED) + b"0\r\nX\r\n\r\n", "trailer"),
    "trailer without a name": (post(CHUNKED) + b"0\r\n: x\r\n\r\n", "trailer"),
    "NUL in a trailer": (post(CHUNKED) + b"0\r\nX: \0\r\n\r\n", "trailer"),
    "LF after a trailer": (post(CHUNKED) + b"0\r\nX: y\n\r\n", "trailer"),
    "a request for a trailer": (post(CHUNKED) + b"0\r\n" + NEXT, "trailer"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "reason"), DOUBTFUL_REQUESTS.values(), ids=DOUBTFUL_REQUESTS.keys()
)
async def test_a_doubtful_request_is_a_400_and_reaches_no_backend(sent: bytes, reason: str) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(sent + NEXT)
        reply = await client.reply()
        assert (reply.status, reply.fields[b"connection"]) == (400, b"close")
        await client.ended()
        assert a.accepted == 0
        assert proxy.forwarder.refused == {reason: 1}


ENDLESS_TRAILERS = {
    "many": (b"X: 456\r\n" * 40, "trailer"),
    "one": (b"X: " + b"y" * 300, "chunk"),
    "one with an end": (b"X: " + b"y" * 300 + b"\r\n\r\n", "trailer"),
}


@pytest.mark.parametrize(
    ("trailers", "reason"), ENDLESS_TRAILERS.values(), ids=ENDLESS_TRAILERS.keys()
)
async def test_trailers_without_an_end_are_a_400(trailers: bytes, reason: str) -> None:
    async with proxied(limits=Limits(head_limit_bytes=256)) as (proxy, (a,)):
        client = await proxy.client()
        client.send(post(CHUNKED) + b"0\r\n" + trailers)
        assert (await client.reply()).status == 400
        await client.ended()
        assert a.accepted == 0
        assert proxy.forwarder.refused == {reason: 1}


@pytest.mark.parametrize(
    ("trailers", "reason"), ENDLESS_TRAILERS.values(), ids=ENDLESS_TRAILERS.keys()
)
async def test_and_the_request_never_ends_for_a_backend_that_has_it(
    trailers: bytes, reason: str
) -> None:
    async with proxied(limits=Limits(head_limit_bytes=256)) as (proxy, (a,)):
        client = await proxy.client()
        client.send(post(CHUNKED) + b"2\r\nok\r\n")
        peer, _ = await a.request()
        client.send(b"0\r\n" + trailers)
        assert (await client.reply()).status == 400
        await client.ended()
        assert b"\r\n\r\n" not in await everything(peer)
        assert proxy.forwarder.refused == {reason: 1}
        assert (proxy.suspects, len(proxy.pool(a).idle)) == ([], 0)


async def test_trailers_that_stop_coming_are_a_408() -> None:
    async with proxied(timeouts=Timeouts(body_idle_timeout_s=0.5)) as (proxy, (a,)):
        client = await proxy.client()
        client.send(post(CHUNKED) + b"0\r\nX: y\r\n")
        peer, _ = await a.request()
        assert (await client.reply()).status == 408
        await client.ended()
        assert b"\r\n\r\n" not in await everything(peer)
        assert proxy.forwarder.refused == {"body_timeout": 1}


# Lengths of a name that are those of "Content-Length" in a counter of 8 or 16 bits.
_WRAPS = [256 + len("Content-Length"), 65_536 + len("Content-Length")]


@pytest.mark.parametrize("length", _WRAPS)
async def test_a_long_name_is_another_name(length: int) -> None:
    name = b"Content-Length0".ljust(length, b"a")
    async with proxied(limits=Limits(head_limit_bytes=100_000)) as (proxy, (a,)):
        client = await proxy.client()
        client.send(post(b"Content-Length: 5\r\n", name + b":\r\n") + b"hello" + NEXT)
        peer = await a.connection()
        head = b""
        while b"\r\n\r\n" not in head:
            head += await peer.some()
        if not head.endswith(b"hello"):
            await peer.expect(b"hello")
        fields = head.lower().split(b"\r\n")
        assert name.lower() + b": " in fields
        assert b"content-length: 5" in fields
        peer.send(OK.replace(b"Content", name + b":\r\nContent"))
        received = b""
        while not received.endswith(b"\r\n\r\nok"):
            received += await client.some()
        assert name in received
        assert (await peer.head()).startswith(b"GET /next ")


@pytest.mark.parametrize("length", [32_768 + len("Content-Length"), _WRAPS[1]])
async def test_past_the_limit_it_is_a_431(length: int) -> None:
    async with proxied() as (proxy, (a,)):
        for line in (
            b"Content-Length".ljust(length, b"a") + b": 5\r\n",
            b"X: %b\r\n" % (b"y" * length),
        ):
            client = await proxy.client()
            client.send(post(line) + b"hello")
            reply = await client.reply()
            assert (reply.status, reply.fields[b"connection"]) == (431, b"close")
            await client.ended()
        assert a.accepted == 0
        assert proxy.forwarder.refused == {"head_too_large": 2}


# Routing and trust.


@pytest.mark.parametrize(
    "target",
    [
        b"/api/v1/status", b"/metrics", b"/healthz", b"/api/v1/scale?replicas=9", b"//{there}/",
        b"/..//api/v1/status", b"/%2e%2e/api", b"/@{there}", b"/http://{there}/api/v1/status",
        b"http://{there}/api/v1/status", b"https://{there}", b"http://{there}/../metrics",
    ],
)  # fmt: skip
async def test_no_target_or_host_leads_elsewhere(target: bytes) -> None:
    """To the admin port, say: whatever it names, a request goes to who is in rotation."""
    async with proxied() as (proxy, (a,)):
        elsewhere = await proxy.backend("elsewhere")
        there = b"127.0.0.1:%d" % elsewhere.backend.port
        asked = target.replace(b"{there}", there)
        client = await proxy.client()
        client.send(
            b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Length: 2\r\nX-Forwarded-Host: %b\r\n"
            b"X-Real-IP: 127.0.0.1\r\nForwarded: host=%b\r\n\r\nhi" % (asked, there, there, there)
        )
        peer, head = await a.request()
        path = asked.partition(b"://" + there)[2] or b"/" if target.startswith(b"http") else asked
        assert head.startswith(b"POST %b HTTP/1.1\r\nHost: %b\r\n" % (path, there))
        await peer.expect(b"hi")
        peer.send(OK)
        assert (await client.reply()).body == b"ok"
        assert elsewhere.accepted == 0


# Resources.


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"GET /" + b"x" * 40_000, 414, "target_too_long"),
        (b"G" * 40_000, 414, "target_too_long"),
        (GET[:-2] + b"x:\r\n" * 10_000, 431, "head_too_large"),
        (GET[:-2] + b"x:\r\n" * 100 + b"\r\n", 431, "too_many_fields"),
    ],
)
async def test_a_head_without_measure_reaches_no_backend(
    sent: bytes, status: int, reason: str
) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(sent)
        reply = await client.reply()
        assert (reply.status, reply.fields[b"connection"]) == (status, b"close")
        await client.ended()
        assert a.accepted == 0
        assert proxy.forwarder.refused == {reason: 1}


_TINY = b"1\r\nx\r\n" * 20_000


async def test_many_tiny_chunks_go_through_both_ways() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(post(CHUNKED) + _TINY + b"0\r\n\r\n")
        peer, _ = await a.request()
        await peer.expect(_TINY + b"0\r\n\r\n")
        peer.send(CHUNKS + _TINY + b"0\r\n\r\n")
        await client.head()
        await client.expect(_TINY + b"0\r\n\r\n")
        client.send(NEXT)
        assert (await peer.head()).startswith(b"GET /next ")


async def test_for_a_client_of_http_1_0_they_are_put_together() -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(GET.replace(b"1.1", b"1.0"))
        peer, _ = await a.request()
        peer.send(CHUNKS + _TINY + b"0\r\n\r\n")
        assert (await client.reply()).body == b"x" * 20_000


async def test_a_client_that_leaves_after_any_byte_leaves_nothing_behind() -> None:
    message = post(CHUNKED) + b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"
    head_bytes = message.index(b"\r\n\r\n") + 4
    async with proxied() as (proxy, (a,)):
        for cut in range(1, len(message)):
            client = await proxy.client()
            client.send(message[:cut])
            if cut >= head_bytes:
                peer, _ = await a.request()
            client.reset() if cut % 2 else client.half_close()
            await client.gone()
            if cut >= head_bytes:
                assert not (await everything(peer)).endswith(b"\r\n\r\n")
            await proxy.at_rest()
        assert a.accepted == len(message) - head_bytes
        assert proxy.suspects == []
        assert proxy.forwarder.refused == {}
