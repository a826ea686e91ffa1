"""TLS for clients, on real sockets: handshakes and their ends, and that requests over it are what
they are without.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.certificates import Credentials, Source, load
from lbctl.config import Limits, Timeouts, Tls, Trust
from lbctl.proxy.downstream import Downstream
from lbctl.proxy.tls import TlsConnection
from tests.support.deadlines import eventually, scaled
from tests.support.pairs import OPENSSL, Made, careless, make, trusting
from tests.support.scripted import proxied
from tests.support.tlsclient import TlsClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.scripted import Peer, Proxy, ScriptedBackend

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MUCH = 8 * 2**20
HELLO = b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"  # as far as it is looked at before its turn
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def pair() -> Made:
    return make("a.test")


@pytest.fixture(scope="module")
def credentials(pair: Made, tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    directory: Path = tmp_path_factory.mktemp("tls")
    pair.put(directory, "a")
    make("b.test").put(directory, "b")
    return load(Source(directory=directory))[0]


@asynccontextmanager
async def secured(
    credentials: Credentials, **options: Any
) -> AsyncIterator[tuple[Proxy, ScriptedBackend]]:
    async with proxied(credentials=credentials, **options) as (proxy, [backend]):
        yield proxy, backend


def speaking(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = careless()
    context.minimum_version = context.maximum_version = version
    return context


async def in_handshake(proxy: Proxy) -> TlsConnection:
    """The one connection there is, as soon as it is there."""
    await eventually(lambda: len(proxy.forwarder.downstreams) == 1)
    (connection,) = proxy.forwarder.downstreams
    assert isinstance(connection, TlsConnection)
    return connection


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_request_and_its_answer(
    credentials: Credentials, pair: Made, version: ssl.TLSVersion
) -> None:
    async with secured(credentials) as (proxy, backend):
        context = trusting(pair)
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        client = await TlsClient.made(proxy.tls_port, context, "a.test")
        assert client.tls.selected_alpn_protocol() == "http/1.1"
        assert client.tls.compression() is None
        for _ in range(3):  # a known head from the second on
            await client.send(GET)
            if not backend.accepted:
                peer, head = await backend.request()
            else:
                head = await peer.head()
            assert b"X-Forwarded-Proto: https\r\n" in head
            assert b";proto=https\r\n" in head
            peer.send(OK)
            assert await client.until(b"ok") == OK
        client.close()
        await proxy.at_rest()
        proxy.forwarder.close()
        rows = [json.loads(line) for part in proxy.lines for line in part.splitlines()]
        spoken = {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}
        assert {row["tls"] for row in rows} == {spoken[version]}


async def test_plain_http_beside_it_is_as_it_was(credentials: Credentials) -> None:
    async with secured(credentials, tls=Tls(hsts_s=60)) as (proxy, backend):
        client = await proxy.client()
        await client.get()
        peer, head = await backend.request()
        assert b"X-Forwarded-Proto: http\r\n" in head
        peer.send(OK)
        assert (await client.reply()).fields == {b"content-length": b"2"}


@pytest.mark.parametrize(
    "offer",
    [
        {"maximum_version": ssl.TLSVersion.TLSv1_1, "minimum_version": ssl.TLSVersion.TLSv1},
        {"maximum_version": ssl.TLSVersion.TLSv1_2, "ciphers": "AES128-GCM-SHA256"},  # no ECDHE
        {"maximum_version": ssl.TLSVersion.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES128-SHA256"},
        {"maximum_version": ssl.TLSVersion.TLSv1_2, "ciphers": "ECDHE+AES:!AESGCM:!AESCCM"},
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_what_is_weak_is_not_spoken(credentials: Credentials, offer: dict[str, Any]) -> None:
    async with secured(credentials) as (proxy, _):
        context = careless()
        context.maximum_version = offer["maximum_version"]
        if "minimum_version" in offer:
            context.minimum_version = offer["minimum_version"]
        context.set_ciphers(offer.get("ciphers", "ALL") + ":@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await TlsClient.made(proxy.tls_port, context, "a.test")
        await eventually(lambda: proxy.forwarder.refused["tls"] == 1)
        await eventually(lambda: not proxy.forwarder.downstreams)


@pytest.mark.parametrize("version", VERSIONS)
async def test_no_ticket_is_given(credentials: Credentials, version: ssl.TLSVersion) -> None:
    """So there is none that other workers would have to know. (The session ids of TLS 1.2 are
    OpenSSL's, and each worker's own.)
    """
    async with secured(credentials) as (proxy, backend):
        context = speaking(version)
        client = await TlsClient.made(proxy.tls_port, context, "a.test")
        await client.send(GET)
        peer, _ = await backend.request()
        peer.send(OK)
        await client.until(b"ok")
        session = client.tls.session
        assert session is None or not session.has_ticket
        await client.end()
        client.close()
        await eventually(lambda: not proxy.forwarder.downstreams)
        again = await TlsClient.made(proxy.tls_port, context, "a.test", session)
        reused = again.tls.session_reused
        again.close()
        assert not reused or version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("version", VERSIONS)
async def test_one_direction_may_end_before_the_other(
    credentials: Credentials, version: ssl.TLSVersion
) -> None:
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, speaking(version), "a.test")
        await client.send(GET)
        await client.end()
        peer, _ = await backend.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nfirst ")
        await client.until(b"first ")
        peer.send(b"second")
        peer.close()
        assert await client.rest() == b"second"  # and an end that TLS says
        client.close()


async def test_a_fin_alone_is_an_end_too(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(GET)
        client.shut()
        peer, _ = await backend.request()
        peer.send(OK)
        assert await client.rest() == OK
        client.close()


async def test_all_at_once_with_the_end_of_the_handshake(credentials: Credentials) -> None:
    """Finished, a request, close_notify and FIN in one segment."""
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.connected(proxy.tls_port, careless(), "a.test")
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.do_handshake()
        await client.flush()
        while True:
            await client._fill()
            try:
                client.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                continue
        client.tls.write(GET)
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        await client.flush()
        client.shut()
        peer, _ = await backend.request()
        peer.send(OK)
        assert await client.rest() == OK
        client.close()


async def test_an_answer_that_breaks_off_does_not_look_whole(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(GET)
        peer, _ = await backend.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await client.until(b"half")
        peer.reset()
        with pytest.raises(ConnectionError):
            await client.some()
        client.close()


async def test_an_own_answer_ends_with_an_end(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, _):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(b"NONSENSE\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
        client.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_much_goes_both_ways(credentials: Credentials, version: ssl.TLSVersion) -> None:
    body = bytes(range(256)) * (MUCH // 256)
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, speaking(version), "a.test")
        head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % MUCH
        sending = asyncio.create_task(client.send(head + body))
        peer, _ = await backend.request()
        assert await peer.exactly(MUCH) == body
        await sending
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MUCH + body)
        await client.until(b"\r\n\r\n")
        assert await client.exactly(MUCH) == body
        client.close()


async def flooded(peer: Peer, size_bytes: int) -> int:
    """Send until the other side takes no more, or all is sent; returns how much it took."""
    sent = 0
    while sent < size_bytes:
        peer.send(b"x" * 65_536)
        sent += 65_536
        try:
            async with asyncio.timeout(0.3):
                await peer.writer.drain()
        except TimeoutError:
            break
    return sent


async def test_a_slow_reader_pauses_its_backend(credentials: Credentials) -> None:
    much = 32 * 2**20
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(GET)
        peer, _ = await backend.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % much)
        assert await flooded(peer, much) < 20 * 2**20
        (downstream,) = proxy.forwarder.downstreams
        assert isinstance(downstream, Downstream)
        assert downstream.transport.get_write_buffer_size() < 65_536 + 2 * 262_144
        client.close()


async def test_a_backend_that_does_not_read_pauses_the_client(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        size = 32 * 2**20
        await client.send(b"PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % size)
        peer, _ = await backend.request()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sending = asyncio.create_task(client.send(b"x" * size))
        (downstream,) = proxy.forwarder.downstreams
        assert isinstance(downstream, Downstream)
        await eventually(lambda: not downstream.transport.is_reading())
        assert not sending.done()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await peer.exactly(size) == b"x" * size
        await sending
        client.close()


async def test_many_records_in_one_segment(credentials: Credentials) -> None:
    """Pipelined requests, each in a record of its own, and one in many records."""
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        for _ in range(4):
            client.tls.write(GET)
        for byte in GET:
            client.tls.write(bytes([byte]))
        await client.flush()
        peer, _ = await backend.request()
        for number in range(5):
            if number:
                await peer.head()
            peer.send(OK)
            await client.until(b"ok")
        client.close()


async def test_byte_by_byte(credentials: Credentials) -> None:
    """Records and handshake cut anywhere."""
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.connected(proxy.tls_port, careless(), "a.test")

        async def dribble() -> None:
            for byte in client._out.read():
                await client.send_raw(bytes([byte]))
                await asyncio.sleep(0)

        while True:
            try:
                client.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await dribble()
                await client._fill()
        client.tls.write(GET)
        await dribble()
        peer, _ = await backend.request()
        peer.send(OK)
        assert await client.until(b"ok") == OK
        client.close()


async def test_a_tunnel(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(GET[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\nearly")
        peer, _ = await backend.request()
        peer.send(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        await peer.expect(b"early")
        await client.until(b"hello")
        await client.send(b"to and ")
        await peer.expect(b"to and ")
        peer.send(b"fro")
        await client.until(b"fro")
        await client.end()
        await peer.ended()  # one direction
        peer.send(b"last words")
        peer.close()
        assert await client.rest() == b"last words"
        client.close()


# Handshakes that fail, and connections that are none.


async def ended(port: int, *parts: bytes) -> bytes:
    """What is answered to these bytes, up to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (GET, b"HTTP/1.1 400 Bad Request"),
        (b"x", b"HTTP/1.1 400 Bad Request"),
        (b"\x00" * 500, b""),
        (b"\x80\x2e\x01\x00\x02", b""),  # SSL 2
        (b"\x16\x03\x01\x00\x05hello", b"\x15\x03"),  # an alert
        (b"\x16\x03\x01\xff\xff" + b"x" * 70_000, b""),
        (b"\x17\x03\x03\x00\x20" + b"x" * 32, b""),
    ],
)
async def test_garbage_is_ended_and_counted_and_not_logged(
    credentials: Credentials, caplog: pytest.LogCaptureFixture, said: bytes, answer: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    async with secured(credentials) as (proxy, _):
        assert (await ended(proxy.tls_port, said)).startswith(answer)
        await eventually(lambda: not proxy.forwarder.downstreams)
        assert proxy.forwarder.refused == {"tls": 1}
    assert [one for one in caplog.records if one.name != "asyncio"] == []
    assert not any(one.exc_info for one in caplog.records)


async def test_tls_on_the_plain_port_is_ended_at_once(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, _):
        with pytest.raises(ssl.SSLError):
            await TlsClient.made(proxy.port, careless(), "a.test")
        assert proxy.forwarder.refused == {"tls_on_the_plain_port": 1}


async def test_garbage_behind_a_handshake_ends_it(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(GET)
        await backend.request()
        await client.send_raw(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await client.rest()
        client.close()
        await eventually(lambda: not proxy.forwarder.downstreams)


@pytest.mark.parametrize("host", ["\xe4.test", "x" * 250, "a..test"])
async def test_a_host_that_is_none(credentials: Credentials, host: str) -> None:
    """Put into the ClientHello in the place of another one of the same length."""
    async with secured(credentials) as (proxy, _):
        raw = host.encode("latin-1")
        stand_in = ".".join(["y" * 49] * 5) if len(raw) > 60 else "y" * len(raw)
        client = await TlsClient.connected(proxy.tls_port, careless(), stand_in[: len(raw)])
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.do_handshake()
        hello = client._out.read()
        found = stand_in[: len(raw)].encode()
        assert found in hello
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.unraisablehook", lambda _: None)
            await client.send_raw(hello.replace(found, raw))
            # It is served by the first certificate, or refused; and nobody else is harmed.
            await eventually(
                lambda: proxy.forwarder.refused["tls"] == 1 or client_has_answer(client)
            )
        client.close()
        await eventually(lambda: not proxy.forwarder.downstreams)


def client_has_answer(client: TlsClient) -> bool:
    try:
        return bool(client._socket.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


@pytest.mark.parametrize("heard", [b"", b"\x16\x03\x01"])
async def test_a_slow_handshake_is_ended_in_time(credentials: Credentials, heard: bytes) -> None:
    settings = Tls(tls_handshake_timeout_s=0.3)
    async with secured(credentials, tls=settings) as (proxy, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.tls_port)
        writer.write(heard)
        await in_handshake(proxy)
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - began < 2
        assert proxy.forwarder.refused == {"tls_timeout": 1}
        writer.close()


async def test_who_comes_and_goes_is_not_counted(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, _):
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.tls_port)
        await in_handshake(proxy)
        writer.close()
        await eventually(lambda: not proxy.forwarder.downstreams)
        assert not proxy.forwarder.refused


async def test_a_handshake_counts_as_a_connection(credentials: Credentials) -> None:
    async with secured(credentials, limits=Limits(connections_per_worker=1)) as (proxy, backend):
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.tls_port)
        await in_handshake(proxy)
        client = await proxy.client()  # waits in the queue
        await client.get()
        await asyncio.sleep(0.1)
        assert len(proxy.forwarder.downstreams) == 1
        writer.close()
        peer, _ = await backend.request()
        peer.send(OK)
        assert (await client.reply()).status == 200


async def test_renegotiation_is_refused(credentials: Credentials) -> None:
    """By openssl: Python's own client cannot ask for it."""
    assert OPENSSL is not None
    async with secured(credentials) as (proxy, _):
        process = await asyncio.create_subprocess_exec(
            OPENSSL, "s_client", "-connect", f"127.0.0.1:{proxy.tls_port}", "-tls1_2",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        text = b""
        async with asyncio.timeout(20):
            while b"Verify return code" not in text:
                text += await process.stdout.read(4096)
            process.stdin.write(b"R\n")
            text += await process.stdout.read()
            await process.wait()
        assert b"no renegotiation" in text
        assert b"Compression: NONE" in text
        await eventually(lambda: not proxy.forwarder.downstreams)


class Stuck:
    """In the place of OpenSSL: a handshake that takes until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def do_handshake(self) -> None:
        self.begun.set()
        assert self.let_go.wait(scaled(10))
        raise ssl.SSLError


async def test_a_handshake_however_long_delays_no_request(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        stuck = Stuck()
        assert proxy.tls is not None
        proxy.tls.wrap = lambda *_: stuck  # type: ignore[assignment]
        other = await TlsClient.connected(proxy.tls_port, careless(), "a.test")
        await other.send_raw(HELLO)
        await eventually(stuck.begun.is_set)
        await other.send_raw(b"more")  # is held, and harms nobody
        await client.send(GET)
        peer, _ = await backend.request()
        peer.send(OK)
        assert await client.until(b"ok") == OK
        assert not stuck.let_go.is_set()
        stuck.let_go.set()
        await eventually(lambda: proxy.forwarder.refused["tls"] == 1)
        for one in (client, other):
            one.close()


@pytest.mark.parametrize("how", ["leaves", "is too slow"])
async def test_who_goes_while_it_is_his_turn(credentials: Credentials, how: str) -> None:
    settings = Tls(tls_handshake_timeout_s=0.3)
    async with secured(credentials, tls=settings) as (proxy, _):
        stuck = Stuck()
        assert proxy.tls is not None
        wrap, proxy.tls.wrap = proxy.tls.wrap, lambda *_: stuck  # type: ignore[assignment]
        client = await TlsClient.connected(proxy.tls_port, careless(), "a.test")
        await client.send_raw(HELLO)
        await eventually(stuck.begun.is_set)
        if how == "leaves":
            client.reset()
        await eventually(lambda: not proxy.forwarder.downstreams)
        stuck.let_go.set()
        proxy.tls.wrap = wrap
        other = await TlsClient.made(proxy.tls_port, careless(), "a.test")  # the next has its turn
        for one in (client, other):
            one.close()
        assert proxy.forwarder.refused == {"tls" if how == "leaves" else "tls_timeout": 1}


async def test_many_handshakes_at_once(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, _):
        clients = await asyncio.gather(
            *(TlsClient.made(proxy.tls_port, careless(), "a.test") for _ in range(100))
        )
        await eventually(
            lambda: all(isinstance(one, Downstream) for one in proxy.forwarder.downstreams)
        )
        assert len(proxy.forwarder.downstreams) == 100
        for client in clients:
            client.close()


async def test_draining_ends_handshakes_and_their_first_request(credentials: Credentials) -> None:
    async with secured(credentials) as (proxy, backend):
        idle = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await eventually(lambda: len(proxy.forwarder.downstreams) == 1)
        coming = await TlsClient.connected(proxy.tls_port, speaking(VERSIONS[0]), "a.test")
        with pytest.raises(ssl.SSLWantReadError):
            coming.tls.do_handshake()
        await coming.flush()
        silent = await TlsClient.connected(proxy.tls_port, careless(), "a.test")
        await eventually(lambda: len(proxy.forwarder.downstreams) == 3)
        proxy.listener.stop()
        drained = asyncio.create_task(proxy.forwarder.drain(10))
        assert await idle.rest() == b""  # after a second at rest
        with pytest.raises(ConnectionError):
            await silent._fill()
        while True:
            try:
                coming.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await coming.flush()
                await coming._fill()
        await coming.flush()
        await asyncio.sleep(0.3)  # on its way
        await coming.send(GET)
        peer, _ = await backend.request()
        peer.send(OK)
        answer = await coming.rest()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in answer
        await drained
        for one in (idle, coming, silent):
            one.close()


# HSTS and redirects.


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (OK, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%b\r\nok"),
        (
            b"HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=0\r\n"
            b"Content-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%b\r\nok",
        ),
        (
            b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n%b\r\n2\r\nok\r\n0\r\n\r\n",
        ),
    ],
)
async def test_hsts(credentials: Credentials, said: bytes, answer: bytes) -> None:
    line = b"Strict-Transport-Security: max-age=31536000\r\n"
    async with secured(credentials, tls=Tls(hsts_s=31_536_000)) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        wanted = answer % line
        for number in range(3):  # read, remembered, and known
            await client.send(GET)
            if number == 0:
                peer = await backend.connection()
            await peer.head()
            peer.send(said)
            got = await client.exactly(len(wanted))
            head, _, body = got.partition(b"\r\n\r\n")
            wanted_head, _, wanted_body = wanted.partition(b"\r\n\r\n")
            assert sorted(head.split(b"\r\n")) == sorted(wanted_head.split(b"\r\n"))
            assert body == wanted_body
        await client.send(GET[:-2] + b"Connection: close\r\n\r\n")
        await peer.head()
        peer.send(said)
        closing = await client.rest()
        assert closing.count(line) == 1
        assert closing.lower().count(b"strict-transport-security") == 1
        client.close()


async def test_hsts_on_own_answers(credentials: Credentials) -> None:
    async with secured(credentials, tls=Tls(hsts_s=5)) as (proxy, _):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(b"BAD\r\n\r\n")
        assert b"\r\nStrict-Transport-Security: max-age=5\r\n" in await client.rest()
        client.close()


REDIRECTS = Tls(tls_dir="x", tls_redirect="on", tls_port=8443)


async def test_plain_http_is_sent_to_https(credentials: Credentials) -> None:
    async with secured(credentials, tls=REDIRECTS) as (proxy, backend):
        client = await proxy.client()
        await client.get("/a?b=c")
        reply = await client.reply()
        assert reply.status == 308
        assert reply.fields[b"location"] == b"https://site:8443/a?b=c"
        client.send(b"HEAD /x HTTP/1.1\r\nHost: site:80\r\n\r\n")
        reply = await client.reply(to=b"HEAD")
        assert reply.fields[b"location"] == b"https://site:8443/x"
        client.send(b"POST /x HTTP/1.1\r\nHost: site\r\nContent-Length: 4\r\n\r\nbody")
        reply = await client.reply()
        assert reply.status == 308
        await client.get("/.well-known/acme-challenge/token")
        peer, head = await backend.request()
        assert head.startswith(b"GET /.well-known/acme-challenge/token HTTP/1.1\r\n")
        peer.send(OK)
        assert (await client.reply()).status == 200
        client.send(b"PUT /x HTTP/1.1\r\nHost: site\r\nContent-Length: 4\r\n\r\nbo")
        reply = await client.reply()
        assert (reply.status, reply.fields[b"connection"]) == (308, b"close")
        assert proxy.forwarder.refused == {"redirect": 4}


@pytest.mark.parametrize("trusted", [True, False])
async def test_who_came_by_tls_to_a_trusted_proxy_is_not_sent_there_again(
    credentials: Credentials, trusted: bool
) -> None:
    trust = Trust(trusted_proxies="127.0.0.1" if trusted else "")
    async with secured(credentials, tls=REDIRECTS, trust=trust) as (proxy, backend):
        client = await proxy.client()
        for said in ("https", "HTTPS, http"):
            await client.get("/", f"X-Forwarded-Proto: {said}")
            if trusted:
                if said == "https":
                    peer = await backend.connection()
                assert b"x-forwarded-proto: https" in (await peer.head()).lower()
                peer.send(OK)
            assert (await client.reply()).status == (200 if trusted else 308)
        for other in ("http", "http, https", "httpsx", ""):
            await client.get("/", f"X-Forwarded-Proto: {other}")
            assert (await client.reply()).status == 308


@pytest.mark.parametrize("host", [b"a,b", b"user@evil.test", b"%0d%0aX-Evil: y", b""])
async def test_nobody_is_sent_to_what_is_no_host(credentials: Credentials, host: bytes) -> None:
    async with secured(credentials, tls=REDIRECTS) as (proxy, _):
        client = await proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
        reply = await client.reply()
        assert reply.status == 400
        assert b"location" not in reply.fields


async def test_over_tls_nothing_is_redirected(credentials: Credentials) -> None:
    async with secured(credentials, tls=REDIRECTS) as (proxy, backend):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(GET)
        peer, _ = await backend.request()
        peer.send(OK)
        assert await client.until(b"ok") == OK
        client.close()


async def test_timeouts_are_those_of_plain_http(credentials: Credentials) -> None:
    timeouts = Timeouts(client_idle_timeout_s=0.3, head_timeout_s=0.3)
    async with secured(credentials, timeouts=timeouts) as (proxy, _):
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        assert await client.rest() == b""  # at rest
        client.close()
        client = await TlsClient.made(proxy.tls_port, careless(), "a.test")
        await client.send(GET[:10])
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        client.close()
