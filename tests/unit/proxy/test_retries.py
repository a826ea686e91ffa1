"""A backend that is silent, and how often a request may go to another one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from lbctl.config import Retries, Timeouts
from lbctl.model import Snapshot
from tests.support.deadlines import eventually, scaled
from tests.support.scripted import Client, Peer, Proxy, ScriptedBackend, proxied

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SOON = Timeouts(try_timeout_s=0.1, response_timeout_s=scaled(20))
SOME_TIME = Timeouts(try_timeout_s=1.0, response_timeout_s=scaled(20))
"""For steps that must be through before anybody is judged."""


async def asked(client: Client, a: ScriptedBackend, b: ScriptedBackend) -> tuple[Peer, str]:
    """Send a GET; who got it?"""
    await client.get("/")
    turns = {asyncio.ensure_future(one.next_connection()): one for one in (a, b)}
    done, pending = await asyncio.wait(turns, return_when=asyncio.FIRST_COMPLETED)
    for one in pending:
        one.cancel()
    (first,) = done
    peer = first.result()
    await peer.head()
    return peer, turns[first].backend.name


async def overtaken(early: Client, answered: Client, backend: ScriptedBackend) -> Peer:
    """Two send a GET, and only the second one is answered. Returns its connection."""
    await early.get("/early")
    await backend.request()
    await answered.get("/answered")
    peer, _ = await backend.request()
    peer.send(OK)
    await answered.reply()
    return peer


async def test_a_silent_backend_is_left_and_the_answer_comes_from_another() -> None:
    async with proxied(["a", "b"], timeouts=SOON) as (proxy, (a, b)):
        client = await proxy.client()
        hung, name = await asked(client, a, b)
        other = b if name == "a" else a
        peer, head = await other.request()
        assert head.startswith(b"GET / ")
        await hung.gone()
        peer.send(OK)
        assert (await client.reply()).body == b"ok"
        left = proxy.forwarder.pools[f"id-{name}"]
        assert left.retries == {"silent": 1}
        assert proxy.suspects == [f"id-{name}"]


async def test_and_so_it_is_where_a_try_may_take_as_long_as_an_answer() -> None:
    async with proxied(["a", "b"], timeouts=Timeouts(response_timeout_s=0.3)) as (proxy, (a, b)):
        client = await proxy.client()
        hung, name = await asked(client, a, b)
        peer, _ = await (b if name == "a" else a).request()
        await hung.gone()
        peer.send(OK)
        assert (await client.reply()).body == b"ok"


async def test_so_is_one_that_falls_silent_on_a_connection_that_was_in_use() -> None:
    async with proxied(["a", "b"], timeouts=SOON) as (proxy, (a, b)):
        client = await proxy.client()
        proxy.route(a)
        await client.get("/")
        hung, _ = await a.request()
        hung.send(OK)
        await client.reply()
        await client.get("/")  # the very same bytes: the short way
        await hung.head()
        proxy.route(a, b)
        peer, _ = await b.request()
        peer.send(OK)
        assert (await client.reply()).body == b"ok"
        assert proxy.pool(a).retries == {"silent": 1}


async def test_a_slow_page_of_a_backend_that_talks_is_not_asked_for_twice() -> None:
    """For as long as it talks: to another client, whom it answers every few milliseconds."""
    async with proxied(["a", "b"], timeouts=SOME_TIME) as (proxy, (a, b)):
        slow, fast = await proxy.client(), await proxy.client()
        waiting, name = await asked(slow, a, b)
        chatty, other = (a, b) if name == "a" else (b, a)
        peer: Peer | None = None
        enough = proxy.forwarder.deadlines.now + 2.0
        while proxy.forwarder.deadlines.now < enough:
            proxy.route(chatty)
            await fast.get("/other")
            peer = peer or await chatty.connection()
            await peer.head()
            peer.send(OK)
            await fast.reply()
            proxy.route(chatty, other)
            await asyncio.sleep(0.01)
        waiting.send(OK)
        assert (await slow.reply()).body == b"ok"
        assert other.accepted == 0
        assert not proxy.pool(chatty).retries


async def test_one_that_talked_since_and_fell_silent_is_left() -> None:
    """A `docker pause` between two answers: nobody else comes to notice it, for it is out of
    rotation at once.
    """
    async with proxied(["a", "b"], timeouts=SOME_TIME) as (proxy, (a, b)):
        early, answered = await proxy.client(), await proxy.client()
        proxy.route(a)
        await overtaken(early, answered, a)
        proxy.route(b)
        peer, head = await b.request()
        assert head.startswith(b"GET /early ")
        peer.send(OK)
        assert (await early.reply()).body == b"ok"
        assert proxy.pool(a).retries == {"silent": 1}


@pytest.mark.parametrize("begun", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 200 O"])
async def test_one_that_has_begun_to_answer_is_waited_for(begun: bytes) -> None:
    async with proxied(["a", "b"], timeouts=SOON) as (proxy, (a, b)):
        client = await proxy.client()
        slow, name = await asked(client, a, b)
        slow.send(begun)
        judged = proxy.forwarder.deadlines.now + 1.0
        await eventually(lambda: proxy.forwarder.deadlines.now > judged)
        slow.send(OK if begun.endswith(b"\n") else OK.removeprefix(begun))
        if begun.endswith(b"\n"):
            assert (await client.reply()).status == 103
        assert (await client.reply()).body == b"ok"
        assert not proxy.forwarder.pools[f"id-{name}"].retries
        assert proxy.suspects == []


async def test_what_another_address_says_is_no_word_of_the_one_that_was_asked() -> None:
    async with proxied(["a", "b"], timeouts=SOON) as (proxy, (a, b)):
        early = await proxy.client()
        proxy.route(a)
        await early.get("/early")
        await a.request()
        # Its backend has moved, and goes on talking there.
        moved = replace(a.backend, port=b.backend.port)
        pool = proxy.pool(a)
        proxy.forwarder.apply(Snapshot(99, 99, (moved, b.backend)))

        async def talks() -> None:
            while True:
                pool.heard += 1
                await asyncio.sleep(0.01)

        talking = asyncio.ensure_future(talks())
        peer, head = await b.request()
        talking.cancel()
        assert head.startswith(b"GET /early ")
        peer.send(OK)
        assert (await early.reply()).body == b"ok"


async def test_all_that_wait_for_it_leave_it() -> None:
    async with proxied(["a", "b"], timeouts=SOME_TIME) as (proxy, (a, b)):
        early, answered, late = [await proxy.client() for _ in range(3)]
        proxy.route(a)
        peer = await overtaken(early, answered, a)
        await late.get("/late")
        await peer.head()
        proxy.route(a, b)
        targets = set()
        for _ in range(2):
            peer, head = await b.request()
            targets.add(head.split()[1])
            peer.send(OK)
        assert targets == {b"/early", b"/late"}
        assert (await early.reply()).body == (await late.reply()).body == b"ok"
        assert proxy.pool(a).retries == {"silent": 2}


async def test_who_finds_no_room_for_a_second_try_looks_again() -> None:
    """The budget is for one at a time; each is answered when its turn comes."""
    budget = Retries(retry_budget_min=1, retry_budget_percent=0)
    async with proxied(["a", "b"], timeouts=SOME_TIME, retries=budget) as (proxy, (a, b)):
        clients = [await proxy.client() for _ in range(3)]
        proxy.route(a)
        for client in clients:
            await client.get("/")
            await a.request()
        proxy.route(a, b)
        for _ in clients:
            peer, _ = await b.request()
            peer.send(OK)
        for client in clients:
            assert (await client.reply()).body == b"ok"
        assert proxy.pool(a).retries == {"silent": 3}


async def test_what_may_not_be_repeated_waits_on_a_silent_backend() -> None:
    async with proxied(["a", "b"], timeouts=SOON) as (proxy, (a, b)):
        client = await proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: site\r\nContent-Length: 0\r\n\r\n")
        await eventually(lambda: a.accepted + b.accepted == 1)
        judged = proxy.forwarder.deadlines.now + 0.5
        await eventually(lambda: proxy.forwarder.deadlines.now > judged)
        assert a.accepted + b.accepted == 1
        peer = await (a if a.accepted else b).connection()
        peer.send(OK)
        assert (await client.reply()).body == b"ok"


async def test_where_there_is_no_other_it_waits_for_the_whole_response_timeout() -> None:
    timeouts = Timeouts(try_timeout_s=0.05, response_timeout_s=0.6)
    async with proxied(timeouts=timeouts) as (proxy, (a,)):
        client = await proxy.client()
        await client.get("/")
        await a.request()
        assert (await client.reply()).status == 504
        assert a.accepted == 1
        assert not proxy.pool(a).retries


async def test_two_silent_backends_are_enough() -> None:
    timeouts = Timeouts(try_timeout_s=0.05, response_timeout_s=1.0)
    async with proxied(["a", "b", "c"], timeouts=timeouts) as (proxy, backends):
        client = await proxy.client()
        await client.get("/")
        assert (await client.reply()).status == 504
        assert sum(one.accepted for one in backends) == 2


async def slam(backend: ScriptedBackend) -> None:
    """Close every connection as soon as there is a request on it."""
    while True:
        peer = await backend.next_connection()
        await peer.head()
        peer.close()


async def lose(proxy: Proxy, *backends: ScriptedBackend) -> int:
    """A GET whose connections are all closed without an answer: the number of attempts."""
    before = sum(one.accepted for one in backends)
    slamming = [asyncio.ensure_future(slam(one)) for one in backends]
    client = await proxy.client()
    await client.get("/")
    assert (await client.reply()).status == 502
    for one in slamming:
        one.cancel()
    return sum(one.accepted for one in backends) - before


async def test_the_number_of_second_tries_can_be_set() -> None:
    for retries in (0, 1, 2):
        settings = Retries(retries=retries)
        async with proxied(["a", "b", "c"], retries=settings) as (proxy, backends):
            assert await lose(proxy, *backends) == retries + 1


async def test_no_second_try_where_the_budget_is_used_up() -> None:
    settings = Retries(retry_budget_min=0, retry_budget_percent=50)
    async with proxied(["a", "b"], retries=settings) as (proxy, backends):
        assert await lose(proxy, *backends) == 1  # half of one request is none
        assert proxy.forwarder.budget.active == 0


async def test_the_budget_is_given_back_with_the_request() -> None:
    settings = Retries(retry_budget_min=1, retry_budget_percent=0)
    async with proxied(["a", "b"], retries=settings) as (proxy, backends):
        for _ in range(3):
            assert await lose(proxy, *backends) == 2
            assert proxy.forwarder.budget.active == 0


async def test_a_refused_second_try_falls_back_on_the_one_that_was_only_stale() -> None:
    async with proxied(["a", "b"]) as (proxy, (a, b)):
        client = await proxy.client()
        proxy.route(a)
        await client.get("/")
        stale, _ = await a.request()
        stale.send(OK)
        await client.reply()
        await client.get("/again")
        assert (await stale.head()).startswith(b"GET /again")
        b.refuse()
        proxy.route(a, b)
        stale.close()
        fresh, _ = await a.request()
        fresh.send(OK)
        assert (await client.reply()).body == b"ok"
