"""Mutated messages against the running proxy: it answers or closes, and serves everybody else.

    python -m benchmarks.storm 20000                       requests, to a stack of its own
    python -m benchmarks.storm 20000 --responses           responses, of a backend gone mad
    python -m benchmarks.storm --seed 1 --replay 4711      one shot again, and what came back

Every shot is made from the seed and its number alone. A finding is an answer that is no HTTP or
has a status it must not have, a connection that has neither an answer nor an end in time, a good
request beside the storm that is not answered as it should be, a process that was replaced, an
exception or a forged line in the log, and a worker that has grown. Exit status 1 if there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import secrets
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvloop
from tests.support.cli import Cli

from benchmarks.support.client import Connection
from benchmarks.support.mutations import REQUESTS, Ending, shot
from benchmarks.support.responses import ResponseStorm
from benchmarks.support.site import TARGETS, Site, WrongAnswerError, get_bytes
from benchmarks.support.strict import NotHttpError
from benchmarks.support.tally import Tally
from benchmarks.support.volley import fire
from benchmarks.support.watch import LogWatch, held, processes
from lbctl.assets import initial_files
from lbctl.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lbctl.cli.screen import Steps

PIPELINE = 4
"""So many requests at most in one shot."""
_ALLOWED = frozenset((100, *range(200, 500), 501, 502, 503, 504, 505))
"""Statuses that may answer bad input; 500 would be a failure of the proxy's own."""
_LANES = 128
_RESPONSE_LANES = 32
_BATCH = 500
"""Shots between two rounds of good requests."""
_WARM_UP = 0.25  # of the shots; then memory is measured for the first time
_TOLERATED_RSS_BYTES = 8 << 20
_SETTINGS = {
    "LBCTL_CONNECT_TIMEOUT_S": "1",
    "LBCTL_HEAD_TIMEOUT_S": "1",
    "LBCTL_CLIENT_IDLE_TIMEOUT_S": "1",
    "LBCTL_BODY_IDLE_TIMEOUT_S": "1",
    "LBCTL_RESPONSE_TIMEOUT_S": "2",
}
_LATE_S = 0.25
"""A new connection that took longer is not used: the proxy closes one on which nothing came for
0.75 s, and this process, with 128 shots at a time, may have to wait for as long until its turn.
"""
_CONNECTS = 20  # so many late ones in a row are no chance
_WITHIN_S = 6.0
"""A connection has ended by then: the timeouts above, and the 2 s for which the proxy listens to
a client it has refused.
"""


class RequestStorm:
    """Mutated requests to a stack that is up."""

    def __init__(self, stack: Cli, seed: int, tally: Tally) -> None:
        self._stack = stack
        self._seed = seed
        self._tally = tally
        self._pids = processes(stack)
        self._workers = stack.processes("worker")
        self._warm_bytes: dict[int, int] = {}
        self._late = 0
        self._log = LogWatch(stack)
        first = stack.backends()[0]["ip"]
        count = len(stack.backends())
        network = ipaddress.IPv4Network(f"{first}/16", strict=False)
        pages = frozenset((initial_files()["index.html"],))
        self._site = Site(network, low=count, high=count, pages=pages)

    async def run(self, count: int) -> None:
        """Fire `count` shots, and look at the stack between and behind them."""
        numbers = iter(range(count))
        warm_at = int(count * _WARM_UP)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_LANES):
                tasks.create_task(self._lane(numbers, warm_at))
        await self._check()
        await asyncio.to_thread(self._judge)

    async def _lane(self, numbers: Iterator[int], warm_at: int) -> None:
        for number in numbers:
            await self._shoot(number)
            if number % _BATCH == 0:
                await self._check()
                self._read_log()
            if number == warm_at:
                self._warm_bytes = self._rss_bytes()
            if self._tally.enough:
                return

    async def _shoot(self, number: int) -> None:
        made = shot(self._seed, number, REQUESTS, pipeline=PIPELINE)
        try:
            seen = await fire(self._stack.port, made, within_s=_WITHIN_S)
        except OSError as error:
            self._tally.blame(made, f"no end: {error!r}")
            return
        if made.ending is Ending.RESET:
            self._tally.left()
            return
        try:
            self._tally.saw(seen.statuses(_ALLOWED, may_be_head=b"HEAD" in made.data), seen)
        except NotHttpError as error:
            self._tally.blame(made, str(error), seen)

    async def _check(self) -> None:
        """Good requests on new connections, one after the other: each gets its own answer."""
        for target in TARGETS * 2:
            try:
                connection = await self._connected()
                try:
                    connection.send(get_bytes(target))
                    self._site.check(target, await connection.answer())
                finally:
                    connection.close()
            except (OSError, NotHttpError, WrongAnswerError) as error:
                self._tally.findings.append(f"a good request for {target} failed: {error!r}")
            else:
                self._tally.checks += 1

    async def _connected(self) -> Connection:
        """A new connection, in time to send on it. Raises OSError."""
        for _ in range(_CONNECTS):
            began_s = time.monotonic()
            connection = await Connection.open(self._stack.port)
            if time.monotonic() - began_s < _LATE_S:
                return connection
            connection.close()
            self._late += 1
        raise TimeoutError(f"no connection within {_LATE_S:g} s, {_CONNECTS} times in a row")

    def _judge(self) -> None:
        """What is left of it in the processes and in the log."""
        pids = processes(self._stack)
        if pids != self._pids:
            self._tally.findings.append(f"processes were {self._pids}, are {pids}")
            return
        self._read_log()
        self._tally.facts.append(f"{self._log.lines:,} lines of log, each one JSON object")
        if self._late:
            self._tally.facts.append(f"{self._late:,} connections were late themselves: not used")
        for pid, now in self._rss_bytes().items():
            before = self._warm_bytes.get(pid, now)
            said = f"worker {pid}: {before / 2**20:.1f} MiB warm, {now / 2**20:.1f} MiB at the end"
            if now - before > _TOLERATED_RSS_BYTES:
                self._tally.findings.append(f"it grew: {said}")
            self._tally.facts.append(said)

    def _rss_bytes(self) -> dict[int, int]:
        return {pid: held(pid).rss_bytes for pid in self._workers}

    def _read_log(self) -> None:
        self._tally.findings += self._log.complaints()


@contextmanager
def _stack(steps: Steps) -> Iterator[Cli]:
    stack = Cli(f"storm{secrets.token_hex(3)}", "local", settings=_SETTINGS)
    try:
        steps.state("starting a stack")
        stack.ok("up", "--replicas", "3")
        yield stack
    finally:
        stack.clean()


async def _with_progress(
    storm: asyncio.Future[None], count: int, tally: Tally, steps: Steps
) -> None:
    begun_s = time.monotonic()
    while not (await asyncio.wait([storm], timeout=0.5))[0]:
        rate = tally.fired / (time.monotonic() - begun_s)
        top = ", ".join(f"{outcome}: {n:,}" for outcome, n in tally.outcomes.most_common(4))
        steps.state(
            f"{tally.fired:,} of {count:,} shots, {rate:,.0f}/s | {top} | "
            f"{tally.checks:,} good requests | {len(tally.findings)} findings"
        )
    storm.result()


def storm_requests(count: int, seed: int, screen: Screen) -> Tally:
    """Mutated requests to a stack of its own."""
    tally = Tally()

    async def run(stack: Cli, steps: Steps) -> None:
        storm = asyncio.ensure_future(RequestStorm(stack, seed, tally).run(count))
        await _with_progress(storm, count, tally, steps)

    with screen.steps("storm") as steps, _stack(steps) as stack:
        uvloop.run(run(stack, steps))
    return tally


def storm_responses(numbers: Sequence[int], seed: int, screen: Screen) -> Tally:
    """Mutated responses through a proxy in this process."""
    tally = Tally()

    async def run(steps: Steps) -> None:
        storm = ResponseStorm(seed, tally)
        lanes = min(_RESPONSE_LANES, len(numbers))
        firing = asyncio.ensure_future(storm.run(iter(numbers), lanes))
        await _with_progress(firing, len(numbers), tally, steps)

    with screen.steps("storm of responses") as steps:
        uvloop.run(run(steps))
    return tally


def replay_request(number: int, seed: int, screen: Screen) -> None:
    """Fire one shot again, and print what comes back."""
    made = shot(seed, number, REQUESTS, pipeline=PIPELINE)
    screen.say(str(made))
    with screen.steps("storm") as steps, _stack(steps) as stack:
        seen = uvloop.run(fire(stack.port, made, within_s=_WITHIN_S))
    screen.say(f"{'reset' if seen.was_reset else 'closed'} after {seen.data!r}")


def main(arguments: Iterable[str] | None = None) -> int:
    """The exit status: 0, or 1 if there is a finding."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("count", type=int, nargs="?", default=20_000, help="shots to fire")
    parser.add_argument("--responses", action="store_true", help="the backend's side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="this shot alone")
    given = parser.parse_args(None if arguments is None else list(arguments))
    screen = Screen()
    if given.responses:
        numbers = range(given.count) if given.replay is None else (given.replay,)
        tally = storm_responses(numbers, given.seed, screen)
    elif given.replay is not None:
        replay_request(given.replay, given.seed, screen)
        return 0
    else:
        tally = storm_requests(given.count, given.seed, screen)
    tally.show(screen.out)
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
