"""Mutated messages from both sides: the proxy answers or closes, and goes on serving.

LBCTL_TEST_STORM says how many requests (20,000); `python -m benchmarks.storm 1000000` does the
same by hand. The other tests here prove that the storm would notice.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from benchmarks.storm import main, storm_requests, storm_responses
from benchmarks.support.mutations import REQUESTS, RESPONSES, Ending, Shot, shot
from benchmarks.support.responses import ResponseStorm
from benchmarks.support.strict import NotHttpError
from benchmarks.support.tally import Tally
from benchmarks.support.volley import Seen, fire

from lbctl.cli.screen import Screen
from lbctl.proxy.upstream import Upstream
from tests.support.scripted import loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


COUNT = int(os.environ.get("LBCTL_TEST_STORM", "20000"))
ALLOWED = frozenset((100, 200, 400))


def test_mutated_requests_leave_it_serving() -> None:
    tally = storm_requests(COUNT, 0, Screen())
    print(f"requests: {tally.summary}; {'; '.join(tally.facts)}")
    assert tally.findings == [], "\n".join(tally.findings)
    assert tally.fired == COUNT
    # Neither all refused nor all taken: otherwise the storm would be a poor one.
    assert tally.outcomes["200"] > COUNT // 20
    assert tally.outcomes["400"] > COUNT // 10
    assert tally.outcomes["408"] > 0


def test_mutated_responses_harm_no_other_request() -> None:
    count = COUNT // 5
    tally = storm_responses(range(count), 0, Screen())
    print(f"responses: {tally.summary}")
    assert tally.findings == [], "\n".join(tally.findings)
    assert tally.fired == tally.checks == count
    assert tally.outcomes["200"] > count // 20
    assert tally.outcomes["502"] > count // 10


def test_a_seed_and_a_number_make_a_shot() -> None:
    for shapes in (REQUESTS, RESPONSES):
        once = [shot(3, number, shapes, pipeline=4) for number in range(300)]
        assert once == [shot(3, number, shapes, pipeline=4) for number in range(300)]
        assert len({one.data for one in once}) > 200
        assert any(one.data in shapes for one in once)  # some stay as they are
        assert {one.ending for one in once} == set(Ending)
    assert shot(3, 1, REQUESTS, pipeline=4) != shot(4, 1, REQUESTS, pipeline=4)


def test_one_shot_can_be_fired_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--responses", "--replay", "7", "--seed", "3"]) == 0
    assert "1 shots" in capsys.readouterr().out


# What the storm must notice.


@asynccontextmanager
async def port_of_one_that_says(answer: bytes, *, closes: bool) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        try:
            if not closes:
                await reader.read()  # for as long as the client stays
        finally:
            writer.close()

    listening = loopback()
    async with await asyncio.start_server(serve, sock=listening):
        yield int(listening.getsockname()[1])


def waiting_shot() -> Shot:
    return Shot(0, 0, (b"GET / ", b"HTTP/1.1\r\n\r\n"), 0.001, Ending.WAIT)


async def test_a_connection_that_never_ends_is_noticed() -> None:
    async with port_of_one_that_says(b"", closes=False) as port:
        with pytest.raises(TimeoutError):
            await fire(port, waiting_shot(), within_s=0.1)


async def test_all_that_came_back_is_seen() -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    async with port_of_one_that_says(answer, closes=True) as port:
        seen = await fire(port, waiting_shot(), within_s=5)
    assert seen.data == answer
    assert seen.statuses(ALLOWED, may_be_head=False) == [400]


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"", []),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 No\r\nContent-Length: 1\r\n\r\nx", [100, 400]),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end", [200]),
    ],
)
def test_what_is_whole_is_counted(data: bytes, statuses: list[int]) -> None:
    assert Seen(data, was_reset=False).statuses(ALLOWED, may_be_head=False) == statuses


def test_an_answer_to_a_head_has_no_body() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" * 2
    assert Seen(data, was_reset=False).statuses(ALLOWED, may_be_head=True) == [200, 200]
    with pytest.raises(NotHttpError):
        Seen(data, was_reset=False).statuses(ALLOWED, may_be_head=False)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nlonger",
        b"Traceback (most recent call last):\n",
    ],
)
def test_what_is_not_whole_or_not_allowed_is_noticed(data: bytes) -> None:
    with pytest.raises(NotHttpError):
        Seen(data, was_reset=False).statuses(ALLOWED, may_be_head=False)


def test_a_reset_may_cut_an_answer_short() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"
    assert Seen(cut, was_reset=True).statuses(ALLOWED, may_be_head=False) == []


async def test_a_dirty_connection_that_is_used_again_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a proxy that keeps the connection of every response, whatever follows it."""
    finish = Upstream._finish

    def careless(self: Upstream, downstream: object, *, reusable: bool) -> None:
        finish(self, downstream, reusable=True)  # type: ignore[arg-type]

    monkeypatch.setattr(Upstream, "_finish", careless)
    tally = Tally()
    # 204, and then more: each time anew it is a matter of moments which connection that meets.
    await ResponseStorm(0, tally).run(iter([334] * 60), lanes=4)
    assert any("the next request" in finding for finding in tally.findings), tally.findings
