"""A mixed load while backends come and go: no request fails and nothing grows.

LBCTL_TEST_SOAK_S says for how many seconds (120); `python -m benchmarks.soak 1h` does the same
by hand. The other tests here prove that the soak would notice.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from benchmarks.soak import Options, duration_s, soak
from benchmarks.support.growth import trend
from benchmarks.support.site import Site
from benchmarks.support.strict import NotHttpError, ShortError, take_answer
from benchmarks.support.traffic import Failure, Pace, Traffic

from lbctl.cli.screen import Screen
from tests.support.deadlines import eventually
from tests.support.scripted import loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SOAK_S = float(os.environ.get("LBCTL_TEST_SOAK_S", "120"))
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LIST = b"127.1.0.1\n127.1.0.2\n"


def test_no_request_fails_and_nothing_grows() -> None:
    outcome = soak(Options(duration_s=SOAK_S), Screen())
    print(f"soak of {SOAK_S:.0f} s: {outcome.summary}")
    assert outcome.failures == [], "\n".join(map(str, outcome.failures[:20]))
    assert [one for one in outcome.measured if one.grows] == []
    assert len(outcome.measured) >= 8
    assert sum(outcome.answered.values()) > 50 * SOAK_S
    assert outcome.changes >= SOAK_S / 10
    assert set(outcome.answered) == {
        "get", "pipeline", "head", "post", "put", "chunked", "download", "fresh", "abort",
        "slow", "idle",
    }  # fmt: skip


# What the soak must notice.


@asynccontextmanager
async def failures_at(answer: bytes) -> AsyncIterator[list[Failure]]:
    """What the users of a server complain about that gives the same answer to whatever comes."""
    seen: list[Failure] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536) and not writer.is_closing():
            writer.write(answer)
        writer.close()

    listening = loopback()
    site = Site(ipaddress.IPv4Network("127.1.0.0/16"), low=2, high=6, pages=frozenset())
    async with await asyncio.start_server(serve, sock=listening):
        port = listening.getsockname()[1]
        traffic = Traffic(port, site, pace=Pace(500), seed=1, on_failure=seen.append)
        running = asyncio.create_task(traffic.run(8))
        try:
            yield seen
        finally:
            traffic.stop()
            await running


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nbad\n",
        b"HTTP/1.1 200 OK\r\nX-Served-By: 127.1.0.1\r\nContent-Length: 5\r\n\r\nwrong",
        b"HTTP/1.1 200 OK\r\nX-Served-By: 127.1.0.1\r\nContent-Length: 20\r\n\r\n" + LIST[::-1],
        b"HTTP/1.1 200 OK\r\nX-Served-By: 10.1.0.1\r\nContent-Length: 20\r\n\r\n" + LIST,
        b"nonsense\r\n\r\n",
    ],
)
async def test_a_wrong_answer_is_noticed(answer: bytes) -> None:
    async with failures_at(answer) as failures:
        wanted = {"get", "pipeline", "fresh"}
        await eventually(lambda: wanted <= {failure.kind for failure in failures})


@pytest.mark.parametrize("noise", [0, 100_000])
def test_a_slow_leak_is_growth_and_noise_is_not(noise: int) -> None:
    chance = random.Random(1)
    times = [float(second) for second in range(100)]
    steady = [25e6 + chance.uniform(-noise, noise) for _ in times]
    leaking = [value + 60_000 * time for time, value in zip(times, steady, strict=True)]
    assert not trend(times, steady).grows(4 << 20)
    seen = trend(times, leaking)
    assert seen.grows(4 << 20)
    assert seen.rise == pytest.approx(60_000 * 99, rel=0.05)


def test_one_step_or_one_spike_is_no_growth() -> None:
    times = [float(second) for second in range(40)]
    spiked = [10.0] * 40
    spiked[35] = 1_000.0
    assert not trend(times, spiked).grows(1)
    assert trend(times, spiked).highest == 1_000
    warming = [10.0] * 3 + [12.0] * 37
    assert not trend(times, warming).grows(1)


def test_a_trend_takes_points() -> None:
    with pytest.raises(ValueError, match="no trend"):
        trend([1.0, 2.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("2m", 120), ("1h", 3600), ("0.5h", 1800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "1d", "-90", "90 s"])
def test_impossible_durations(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        duration_s(text)


# The client's own reader.


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;a\r\nk\r\n0\r\n\r\n",
            b"ok",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n",
            b"ok",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
def test_an_answer_is_taken_when_it_is_whole(data: bytes, body: bytes) -> None:
    for end in range(len(data)):
        assert take_answer(data[:end], bodiless=False, ended=False) is None
        with pytest.raises(ShortError):
            take_answer(data[:end], bodiless=False, ended=True)
    taken = take_answer(data + b"HTTP", bodiless=False, ended=False)
    assert taken is not None
    assert taken[0].body == body
    assert taken[1] == b"HTTP"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        CHUNKED + b"+1\r\nx\r\n",
        CHUNKED + b"1\r\nxx\r\n",
        b"HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \n\r\n\r\n",
        b"garbage",
    ],
)
def test_what_is_no_http_is_not_taken(data: bytes) -> None:
    with pytest.raises(NotHttpError):
        take_answer(data, bodiless=False, ended=False)
