"""Requests that two readers could read in two ways: 400, closed, and no backend hears of them."""

from __future__ import annotations

import pytest

from tests.support.scripted import proxied

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
INNER = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def post(*lines: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: h\r\n" + b"".join(lines) + b"\r\n"


REFUSED = {
    # Two lengths, or one that is none.
    "two lengths": post(b"Content-Length: 5\r\n", b"Content-Length: 6\r\n") + b"hello",
    "one length twice": post(b"Content-Length: 5\r\n", b"Content-Length: 5\r\n") + b"hello",
    "a list of lengths": post(b"Content-Length: 5, 5\r\n") + b"hello",
    "length and chunks": post(b"Content-Length: 5\r\n", CHUNKED) + b"0\r\n\r\n",
    "chunks and length": post(CHUNKED, b"Content-Length: 5\r\n") + b"0\r\n\r\n",
    "no length and chunks": post(b"Content-Length: 0\r\n", CHUNKED) + b"0\r\n\r\n",
    "empty length": post(b"Content-Length: \r\n"),
    "plus": post(b"Content-Length: +5\r\n") + b"hello",
    "minus": post(b"Content-Length: -5\r\n") + b"hello",
    "underscore in digits": post(b"Content-Length: 1_0\r\n") + b"hello",
    "hexadecimal": post(b"Content-Length: 0x5\r\n") + b"hello",
    "digits of elsewhere": post(b"Content-Length: \xd9\xa5\r\n") + b"hello",
    "space within": post(b"Content-Length: 5 5\r\n") + b"hello",
    "wraps at 64 bits": post(b"Content-Length: 18446744073709551621\r\n") + b"hello",
    "a length's alias": post(b"Content_Length: 5\r\n") + b"hello",
    # Transfer-Encoding.
    "twice chunked": post(CHUNKED, CHUNKED) + b"0\r\n\r\n",
    "chunked, chunked": post(b"Transfer-Encoding: chunked, chunked\r\n") + b"0\r\n\r\n",
    "identity": post(b"Transfer-Encoding: identity\r\n"),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity\r\n") + b"0\r\n\r\n",
    "empty coding": post(b"Transfer-Encoding:\r\n"),
    "quoted coding": post(b'Transfer-Encoding: "chunked"\r\n') + b"0\r\n\r\n",
    "coding with a parameter": post(b"Transfer-Encoding: chunked;x=y\r\n") + b"0\r\n\r\n",
    "coding with a vertical tab": post(b"Transfer-Encoding: \x0bchunked\r\n") + b"0\r\n\r\n",
    "almost chunked": post(b"Transfer-Encoding: xchunked\r\n") + b"0\r\n\r\n",
    "folded": post(b"Transfer-Encoding:\r\n chunked\r\n") + b"0\r\n\r\n",
    "a coding's alias": post(b"Transfer_Encoding: chunked\r\n") + b"0\r\n\r\n",
    "space before the colon": post(b"Transfer-Encoding : chunked\r\n") + b"0\r\n\r\n",
    "tab before the colon": post(b"Content-Length\t: 5\r\n") + b"hello",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: h\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    # Lines.
    "bare LF": b"GET / HTTP/1.1\nHost: h\n\n",
    "bare LF in a field": b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
    "LF, then the end": b"GET / HTTP/1.1\r\nHost: h\n\r\n\r\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n",
    "two CRs": b"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n",
    "NUL": b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
    "DEL": b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\n\r\n",
    "folded field": b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
    "field before any field": b"GET / HTTP/1.1\r\n Host: h\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: h\r\nX\r\n\r\n",
    "a name that is no token": b"GET / HTTP/1.1\r\nHost: h\r\n(x): y\r\n\r\n",
    "a name beyond ASCII": b"GET / HTTP/1.1\r\nHost: h\r\nX\xe9: y\r\n\r\n",
    # The request line.
    "no version": b"GET /\r\nHost: h\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
    "tab": b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "space at the end": b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
    "fragment": b"GET /#x HTTP/1.1\r\nHost: h\r\n\r\n",
    "target beyond ASCII": b"GET /\xe9 HTTP/1.1\r\nHost: h\r\n\r\n",
    "relative target": b"GET x HTTP/1.1\r\nHost: h\r\n\r\n",
    "asterisk": b"GET * HTTP/1.1\r\nHost: h\r\n\r\n",
    "lower case": b"GET / http/1.1\r\nHost: h\r\n\r\n",
    "a version that is none": b"GET / HTTP/1.1.1\r\nHost: h\r\n\r\n",
    "a version with a sign": b"GET / HTTP/1.+1\r\nHost: h\r\n\r\n",
    # Who is asked.
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
    "two Hosts in HTTP/1.0": b"GET / HTTP/1.0\r\nHost: h\r\nHost: g\r\n\r\n",
    "a list of hosts": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "user in Host": b"GET / HTTP/1.1\r\nHost: u@h\r\n\r\n",
    "path in Host": b"GET / HTTP/1.1\r\nHost: h/x\r\n\r\n",
    "port only": b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
    "port of letters": b"GET / HTTP/1.1\r\nHost: h:x\r\n\r\n",
    "another host in the target": b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
    "user in the target": b"GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "no host in the target": b"GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n",
    "another scheme": b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    # The first chunk.
    "size with a sign": post(CHUNKED) + b"+5\r\nhello\r\n0\r\n\r\n",
    "hexadecimal size": post(CHUNKED) + b"0x5\r\nhello\r\n0\r\n\r\n",
    "size with an underscore": post(CHUNKED) + b"1_0\r\nhello\r\n0\r\n\r\n",
    "empty size": post(CHUNKED) + b"\r\nhello\r\n0\r\n\r\n",
    "space before the size": post(CHUNKED) + b" 5\r\nhello\r\n0\r\n\r\n",
    "space after the size": post(CHUNKED) + b"5 \r\nhello\r\n0\r\n\r\n",
    "size that wraps": post(CHUNKED) + b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "LF after the size": post(CHUNKED) + b"5\nhello\r\n0\r\n\r\n",
    "CR after the size": post(CHUNKED) + b"5\rhello\r\n0\r\n\r\n",
    "LF in an extension": post(CHUNKED) + b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "CR in an extension": post(CHUNKED) + b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": post(CHUNKED) + b"5;a\0\r\nhello\r\n0\r\n\r\n",
    "LF after the data": post(CHUNKED) + b"5\r\nhello\n0\r\n\r\n",
    "no end of the data": post(CHUNKED) + b"5\r\nhello0\r\n\r\n",
    "any two bytes after the data": post(CHUNKED) + b"5\r\nhelloXX0\r\n\r\n",
    "LF at the end": post(CHUNKED) + b"0\r\n\n",
    "framing in a trailer": post(CHUNKED) + b"0\r\nContent-Length: 5\r\n\r\n",
    "framing's alias in a trailer": post(CHUNKED) + b"0\r\nTransfer_Encoding: x\r\n\r\n",
    "origin in a trailer": post(CHUNKED) + b"0\r\nX_Forwarded-For: 6.6.6.6\r\n\r\n",
    "credentials in a trailer": post(CHUNKED) + b"0\r\nauthorization: x\r\n\r\n",
    "folded trailer": post(CHUNKED) + b"0\r\nX: a\r\n b\r\n\r\n",
    "space before a trailer's colon": post(CHUNKED) + b"0\r\nX : a\r\n\r\n",
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())
async def test_a_doubtful_request_is_a_400_and_reaches_no_backend(sent: bytes) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(sent + INNER)
        reply = await client.reply()
        assert (reply.status, reply.fields[b"connection"]) == (400, b"close")
        await client.ended()
        assert a.accepted == 0
        assert sum(proxy.forwarder.refused.values()) == 1


async def test_the_same_on_a_connection_that_is_kept_reaches_no_backend_either() -> None:
    async with proxied() as (proxy, (a,)):
        for sent in REFUSED.values():
            client = await proxy.client()
            await client.get("/first")
            peer, _ = await a.request()
            peer.send(OK)
            await client.reply()
            client.send(sent + INNER)
            assert (await client.reply()).status == 400
            await client.ended()
            peer.close()
            assert await peer.rest() == b""


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http_version"),
        (b"GET / HTTP/1.2\r\nHost: h\r\n\r\n", 505, "http_version"),
        (b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505, "http_version"),
        (b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 501, "connect"),
        (post(b"Transfer-Encoding: gzip, chunked\r\n") + b"0\r\n\r\n", 501, "transfer_encoding"),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400, "bare_lf"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400, "host"),
        (b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400, "host_disagrees"),
        (post(b"Content-Length: x\r\n"), 400, "content_length"),
        (post(b"Content-Length: 1\r\n", CHUNKED), 400, "two_lengths"),
        (post(b"Content_Length: 1\r\n"), 400, "framing_alias"),
        (b"GET /\r\n\r\n", 400, "malformed_head"),
        (post(CHUNKED) + b"x\r\n", 400, "chunk"),
        (post(CHUNKED) + b"0\r\nHost: x\r\n\r\n", 400, "trailer"),
    ],
)
async def test_what_is_refused_is_counted_by_reason(sent: bytes, status: int, reason: str) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(sent)
        reply = await client.reply()
        assert reply.status == status
        assert reply.body.endswith(b": " + reason.replace("_", " ").encode() + b"\n")
        await client.ended()
        assert proxy.forwarder.refused == {reason: 1}
        assert a.accepted == 0


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        (post(b"Content-Length: 0\r\n"), b""),
        (post(b"content-LENGTH:\t 5\t \r\n") + b"hello", b"hello"),
        (post(b"Transfer-Encoding: CHUNKED\r\n") + b"0\r\n\r\n", b"0\r\n\r\n"),
        (post(CHUNKED) + b"00a;x\r\n0123456789\r\n0\r\nX: y\r\n\r\n",) * 2,
    ],
)
async def test_unusual_but_clear_requests_pass(sent: bytes, forwarded: bytes) -> None:
    async with proxied() as (proxy, (a,)):
        client = await proxy.client()
        client.send(sent + b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
        peer, head = await a.request()
        await peer.expect(forwarded.rpartition(b"chunked\r\n\r\n")[2])
        peer.send(OK)
        assert (await client.reply()).status == 200
        assert (await peer.head()).startswith(b"GET /next ")
        assert head.lower().count(b"content-length") + head.count(b"chunked") == 1
