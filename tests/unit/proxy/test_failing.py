"""Rows of failures: what counts, what ends a row, and how often it is told."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.config import Health, Retries, Timeouts
from lbctl.model import Failure
from tests.support.deadlines import eventually, scaled
from tests.support.scripted import proxied

if TYPE_CHECKING:
    import asyncio

    from tests.support.scripted import Proxy, ScriptedBackend

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BROKEN = b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno"
CHUNKED = b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"
ANSWER, CONNECT, TIMEOUT = Failure.ANSWER, Failure.CONNECT, Failure.TIMEOUT
AT_ONCE = Health(eject_failures=1)


class NoPortLeft:
    """An event loop on a machine that has no port left for one more connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def create_connection(self, *_: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "no port is left")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def next_sweep(proxy: Proxy) -> None:
    """A row is told once in a sweep at most."""
    before = proxy.forwarder.deadlines.now
    await eventually(lambda: proxy.forwarder.deadlines.now > before)


async def answers(proxy: Proxy, backend: ScriptedBackend, *messages: bytes) -> None:
    """One request after the other on one connection; the backend says these."""
    client = await proxy.client()
    peer = None
    for message in messages:
        await client.get("/")
        if peer is None:
            peer = await backend.connection()
        await peer.head()
        peer.send(message)
        await client.reply()
    assert peer is not None
    peer.close()
    await eventually(lambda: not proxy.pool(backend).open)


@pytest.mark.parametrize("message", [BROKEN, CHUNKED])
async def test_so_many_5xx_in_a_row_are_told(message: bytes) -> None:
    """The first answer goes the long way, the rest the short one, or all the long one."""
    async with proxied() as (proxy, (a,)):
        await answers(proxy, a, *[message] * 4)
        assert proxy.failing == []
        await answers(proxy, a, message)
        assert proxy.failing == [("id-a", ANSWER)]
        assert proxy.suspects == []  # it answers; a check would find nothing


async def test_one_success_ends_a_row() -> None:
    async with proxied() as (proxy, (a,)):
        await answers(proxy, a, *[BROKEN] * 4, OK, *[BROKEN] * 4, OK)
        assert (proxy.failing, proxy.pool(a).failures) == ([], 0)


async def test_a_row_that_goes_on_is_told_again() -> None:
    async with proxied() as (proxy, (a,)):
        await answers(proxy, a, *[BROKEN] * 5)
        await next_sweep(proxy)
        await answers(proxy, a, *[BROKEN] * 4)
        assert len(proxy.failing) == 1
        await answers(proxy, a, BROKEN)
        assert proxy.failing == [("id-a", ANSWER)] * 2


async def test_thousands_of_failures_a_second_are_told_a_few_times() -> None:
    async with proxied() as (proxy, (a,)):
        pool = proxy.pool(a)
        for _ in range(1000):
            proxy.forwarder.failed(pool, ANSWER)
        assert proxy.failing == [("id-a", ANSWER)]


async def test_one_that_comes_back_starts_a_new_row() -> None:
    async with proxied(["a", "b"]) as (proxy, (a, b)):
        proxy.route(a)
        await answers(proxy, a, *[BROKEN] * 4)
        proxy.route(a, b)
        assert proxy.pool(a).failures == 4  # it never was out
        proxy.route(b)
        proxy.route(a)
        assert proxy.pool(a).failures == 0


async def test_never_is_an_answer_too() -> None:
    async with proxied(health=Health(eject_failures=0)) as (proxy, (a,)):
        await answers(proxy, a, *[BROKEN] * 6)
        assert proxy.failing == []


async def test_connections_that_are_refused() -> None:
    async with proxied(["a"]) as (proxy, (a,)):
        a.refuse()
        for _ in range(5):
            client = await proxy.client()
            await client.get("/")
            assert (await client.reply()).status == 502
        assert proxy.failing == [("id-a", CONNECT)]


async def test_what_this_machine_lacks_is_no_fault_of_the_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxied(health=AT_ONCE) as (proxy, _):
        monkeypatch.setattr(proxy.forwarder, "loop", NoPortLeft(proxy.forwarder.loop))
        client = await proxy.client()
        await client.get("/")
        assert (await client.reply()).status == 502
        assert (proxy.suspects, proxy.failing) == (["id-a"], [])


async def test_a_connection_that_ends_without_an_answer() -> None:
    async with proxied(health=AT_ONCE, retries=Retries(retries=0)) as (proxy, (a,)):
        client = await proxy.client()
        await client.get("/")
        peer, _ = await a.request()
        peer.close()
        assert (await client.reply()).status == 502
        assert proxy.failing == [("id-a", CONNECT)]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_one_that_had_rested_is_no_failure(method: str) -> None:
    """Its backend may have closed it for its age, just as the request came."""
    async with proxied(health=AT_ONCE) as (proxy, (a,)):
        client = await proxy.client()
        await client.get("/")
        stale, _ = await a.request()
        stale.send(OK)
        await client.reply()
        client.send(f"{method} / HTTP/1.1\r\nHost: site\r\n\r\n".encode())
        await stale.head()
        stale.close()
        if method == "GET":
            fresh, _ = await a.request()
            fresh.send(OK)
        assert (await client.reply()).status == (200 if method == "GET" else 502)
        assert proxy.failing == []


async def test_what_is_no_http_counts_as_a_5xx() -> None:
    async with proxied(health=AT_ONCE) as (proxy, (a,)):
        client = await proxy.client()
        await client.get("/")
        peer, _ = await a.request()
        peer.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        assert (await client.reply()).status == 502
        assert proxy.failing == [("id-a", ANSWER)]


async def test_silence_for_which_a_request_goes_elsewhere() -> None:
    timeouts = Timeouts(try_timeout_s=0.1, response_timeout_s=scaled(20))
    async with proxied(["a", "b"], health=AT_ONCE, timeouts=timeouts) as (proxy, backends):
        client = await proxy.client()
        await client.get("/")
        await eventually(lambda: all(one.accepted for one in backends))
        [(silent, cause)] = proxy.failing
        other = next(one for one in backends if one.backend.id != silent)
        peer, _ = await other.request()
        peer.send(OK)
        assert (await client.reply()).status == 200
        assert cause is TIMEOUT


async def test_no_answer_in_time() -> None:
    timeouts = Timeouts(response_timeout_s=0.3)
    async with proxied(health=AT_ONCE, timeouts=timeouts) as (proxy, (a,)):
        client = await proxy.client()
        await client.get("/")
        await a.request()
        assert (await client.reply()).status == 504
        assert proxy.failing == [("id-a", TIMEOUT)]


@pytest.mark.parametrize("how", ["closed", "garbage", "silent"])
async def test_what_was_begun_before_it_left_says_nothing_of_one_that_is_back(how: str) -> None:
    """A container that was stopped and started again: requests of before end badly when the new one
    serves already, many at a time.
    """
    timeouts = Timeouts(response_timeout_s=scaled(0.5) if how == "silent" else scaled(20))
    async with proxied(["a", "b"], health=AT_ONCE, timeouts=timeouts) as (proxy, (a, b)):
        proxy.route(a)
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
        peer, _ = await a.request()
        proxy.route(b)
        proxy.route(a, b)
        if how == "closed":
            peer.close()
        elif how == "garbage":
            peer.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        assert (await client.reply()).status in (502, 504)
        assert (proxy.failing, proxy.suspects, proxy.pool(a).failures) == ([], [], 0)


async def test_a_client_that_leaves_says_nothing_about_the_backend() -> None:
    async with proxied(health=AT_ONCE) as (proxy, (a,)):
        proxy.pool(a).failures = 3
        client = await proxy.client()
        await client.get("/")
        await a.request()
        client.reset()
        await proxy.at_rest()
        assert (proxy.failing, proxy.pool(a).failures) == ([], 3)
