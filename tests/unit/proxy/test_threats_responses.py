"""Responses that have broken other proxies, where no other file sends them already.

docs/testing.md lists every class of bad input, and the test that sends it.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from lbctl.config import Limits
from tests.support.scripted import Proxy, proxied, step

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTH, CODING, HEAD = "content_length", "transfer_encoding", "bad_response"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n"


def answer(*lines: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + b"".join(lines) + b"\r\n"


@contextmanager
def raw_client(proxy: Proxy) -> Iterator[socket.socket]:
    """Not a stream: the event loop would take a reset right behind data for an end."""
    with socket.create_connection(("127.0.0.1", proxy.port)) as end:
        end.setblocking(False)
        yield end


async def before_reset(end: socket.socket) -> bytes:
    """What comes before a reset, which has to come."""
    received, loop = b"", asyncio.get_running_loop()
    with pytest.raises(ConnectionResetError):  # noqa: PT012 - one of several reads
        while part := await step(loop.sock_recv(end, 65_536)):
            received += part
    return received


DOUBTFUL_RESPONSES = {
    "one length twice": (answer(b"Content-Length: 2\r\n" * 2) + b"ok", LENGTH),
    "list of lengths": (answer(b"Content-Length: 2, 2\r\n") + b"ok", LENGTH),
    "empty length": (answer(b"Content-Length:\r\n") + b"ok", LENGTH),
    "minus": (answer(b"Content-Length: -2\r\n") + b"ok", LENGTH),
    "underscore in digits": (answer(b"Content-Length: 0_2\r\n") + b"ok", LENGTH),
    "hexadecimal": (answer(b"Content-Length: 0x2\r\n") + b"ok", LENGTH),
    "wraps at 64 bits": (answer(b"Content-Length: 18446744073709551618\r\n") + b"ok", LENGTH),
    "length of too many zeros": (answer(b"Content-Length: %b2\r\n" % (b"0" * 18)), LENGTH),
    "a bad length that does not count": (b"HTTP/1.1 204 N\r\nContent-Length: x\r\n\r\n", LENGTH),
    "twice chunked": (answer(CHUNKED * 2) + b"0\r\n\r\n", CODING),
    "chunked, chunked": (answer(b"Transfer-Encoding: chunked, chunked\r\n"), CODING),
    "chunked, then gzip": (answer(b"Transfer-Encoding: chunked, gzip\r\n"), CODING),
    "identity": (answer(b"Transfer-Encoding: identity\r\n"), CODING),
    "unknown coding": (answer(b"Transfer-Encoding: x\r\n"), CODING),
    "empty coding": (answer(b"Transfer-Encoding:\r\n"), CODING),
    "coding behind another space": (answer(b"Transfer-Encoding: \xa0chunked\r\n"), CODING),
    "length's alias": (answer(b"Content_Length: 2\r\n") + b"ok", "framing_alias"),
    "coding's alias": (answer(b"Transfer_Encoding: chunked\r\n"), "framing_alias"),
    "chunks and length": (answer(CHUNKED, b"Content-Length: 2\r\n") + b"ok", "two_lengths"),
    "coding behind a vertical tab": (answer(b"Transfer-Encoding: \x0bchunked\r\n"), HEAD),
    "folded coding": (answer(b"Transfer-Encoding:\r\n chunked\r\n"), HEAD),
    "CR in a value": (answer(b"X: y\rContent-Length: 2\r\n") + b"ok", HEAD),
    "LF in a value": (answer(b"X: y\nContent-Length: 2\r\n") + b"ok", HEAD),
    "NUL in the reason": (OK.replace(b"OK", b"O\0K"), HEAD),
    "CR in the reason": (OK.replace(b"OK", b"O\rK"), HEAD),
    "empty name": (answer(b": x\r\n"), HEAD),
    "no colon": (answer(b"X\r\n"), HEAD),
    "tab before the colon": (answer(b"Content-Length\t: 2\r\n") + b"ok", HEAD),
    "a body behind an interim answer": (
        b"HTTP/1.1 103 E\r\nContent-Length: 9\r\n\r\nhi\r\n\r\nyou", HEAD,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "reason"), DOUBTFUL_RESPONSES.values(), ids=DOUBTFUL_RESPONSES.keys()
)
async def test_a_doubtful_response_is_a_502_and_reaches_no_client(sent: bytes, reason: str) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(GET)
        peer, _ = await a.request()
        peer.send(sent)
        reply = await client.reply()
        if reply.status == 103:
            reply = await client.reply()
        assert (reply.status, reply.fields[b"connection"]) == (502, b"close")
        assert reply.body == b"502 Bad Gateway: %b\n" % reason.replace("_", " ").encode()
        await client.ended()
        await peer.gone()
        assert proxy.forwarder.refused == {reason: 1}
        assert (proxy.suspects, len(proxy.pool(a).idle)) == (["id-a"], 0)


BROKEN_CHUNKS = {
    "size with a sign": b"+2\r\nok\r\n0\r\n\r\n",
    "size with a minus": b"-2\r\nok\r\n0\r\n\r\n",
    "size with an underscore": b"0_2\r\nok\r\n0\r\n\r\n",
    "hexadecimal size": b"0x2\r\nok\r\n0\r\n\r\n",
    "empty size": b"\r\nok\r\n0\r\n\r\n",
    "size that wraps": b"10000000000000002\r\nok\r\n0\r\n\r\n",
    "size of too many zeros": b"0" * 15 + b"2\r\nok\r\n0\r\n\r\n",
    "LF after the size": b"2\nok\r\n0\r\n\r\n",
    "LF in an extension": b"2;a\nb\r\nok\r\n0\r\n\r\n",
    "NUL in an extension": b"2;a\0\r\nok\r\n0\r\n\r\n",
    "LF after the data": b"2\r\nok\n0\r\n\r\n",
    "any two bytes after the data": b"2\r\nokXX0\r\n\r\n",
    "LF at the end": b"2\r\nok\r\n0\r\n\n",
    "folded trailer": b"2\r\nok\r\n0\r\nX: a\r\n b\r\n\r\n",
    "space before a trailer's colon": b"2\r\nok\r\n0\r\nX : a\r\n\r\n",
    "framing in a trailer": b"2\r\nok\r\n0\r\nContent-Length: 2\r\n\r\n",
    "a cookie in a trailer": b"2\r\nok\r\n0\r\nSet-Cookie: a=b\r\n\r\n",
    "trailers without an end": b"2\r\nok\r\n0\r\n" + b"X: 456\r\n" * 40,
    "trailer without an end": b"2\r\nok\r\n0\r\nX: " + b"y" * 300,
}


@pytest.mark.parametrize("chunks", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS.keys())
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_broken_chunks_of_a_response_reach_no_client(version: bytes, chunks: bytes) -> None:
    async with proxied(limits=Limits(head_limit_bytes=256)) as (proxy, (a,)):
        client = await proxy.client()
        client.send(GET.replace(b"1.1", version))
        peer, _ = await a.request()
        peer.send(CHUNKS + chunks)
        assert (await client.reply()).status == 502
        await client.ended()
        await peer.gone()
        assert (proxy.suspects, len(proxy.pool(a).idle)) == (["id-a"], 0)


@pytest.mark.parametrize("chunks", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS.keys())
async def test_nor_do_those_that_come_after_the_head(chunks: bytes) -> None:
    async with proxied(limits=Limits(head_limit_bytes=256)) as (proxy, (a,)):
        with raw_client(proxy) as client:
            client.send(GET)
            peer, _ = await a.request()
            peer.send(CHUNKS)
            head = await asyncio.get_running_loop().sock_recv(client, 65_536)
            peer.send(chunks)
            body = await before_reset(client)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b""
        await peer.gone()
        assert (proxy.suspects, len(proxy.pool(a).idle)) == (["id-a"], 0)


POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


@pytest.mark.parametrize(
    ("method", "first"),
    [
        (b"GET", OK),
        (b"GET", CHUNKS + b"2\r\nok\r\n0\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 78\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n"),
        (b"HEAD", CHUNKS),
    ],
)
async def test_what_follows_an_answer_never_answers_the_next_of_a_pipeline(
    method: bytes, first: bytes
) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(GET.replace(b"GET", method) + NEXT)
        peer, _ = await a.request()
        peer.send(first + POISON)
        seen = await client.reply(to=method)
        assert seen.body in (b"ok", b"")
        await peer.gone()
        fresh, head = await a.request()
        assert head.startswith(b"GET /next ")
        fresh.send(OK)
        assert (await client.reply()).body == b"ok"
