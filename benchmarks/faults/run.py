"""One stack, one disturbance: start, settle, load, disturb, watch, count."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.deadlines import scaled

from benchmarks.faults.ledger import figures
from benchmarks.faults.load import REQUEST, SERVED_BY, Load, verdict
from benchmarks.support.client import Connection
from benchmarks.support.strict import NotHttpError
from lbctl.errors import OperationError

if TYPE_CHECKING:
    from benchmarks.faults.disturbances import Disturbance
    from benchmarks.faults.ledger import Figures
    from benchmarks.faults.stacks import Stack

_SETTLE_S = 40.0
_SETTLED_ROUNDS = 10
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Timing:
    """The load, and how long it lasts: `calm_s` before the disturbance, in which nothing may
    fail; then until `watch_s` have passed since it began, and `after_s` since its command ended.
    """

    connections: int = 64
    rate_per_s: float = 1_000.0
    calm_s: float = 2.0
    watch_s: float = (
        15.0  # a peer needs up to 11 s for three checks every 2 s that each time out after 1 s
    )
    after_s: float = 6.0


async def run(stack: Stack, disturbance: Disturbance, timing: Timing) -> Figures:
    """On a stack that is started for this, and is gone afterwards. Raises LbctlError."""
    try:
        await asyncio.to_thread(stack.up, disturbance.backends)
        await settle(stack.port, disturbance.backends)
        return await disturb(stack, disturbance, timing)
    finally:
        stack.down()


async def settle(port: int, backends: int) -> None:
    """Until so many backends answer in turn. Raises OperationError if they do not in time."""
    seen: set[bytes] = set()
    try:
        async with asyncio.timeout(scaled(_SETTLE_S)):
            while len(seen) != backends:
                seen = await _answering(port, _SETTLED_ROUNDS * backends)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise OperationError(f"{len(seen)} of {backends} backends answer") from None


async def _answering(port: int, requests: int) -> set[bytes]:
    """The backends behind so many answers in a row; none if one of these is no good answer."""
    seen: set[bytes] = set()
    try:
        for _ in range(requests):
            connection = await Connection.open(port)
            try:
                connection.send(REQUEST)
                answer = await connection.answer()
            finally:
                connection.close()
            if verdict(answer):
                return set()
            seen.add(answer.fields[SERVED_BY])
    except (OSError, NotHttpError):
        return set()
    return seen


async def disturb(stack: Stack, disturbance: Disturbance, timing: Timing) -> Figures:
    """Under load. Raises OperationError if requests failed before anything was disturbed."""
    loop = asyncio.get_running_loop()
    victim = (await asyncio.to_thread(stack.backends))[0].name
    load = Load(stack.port, connections=timing.connections, rate_per_s=timing.rate_per_s)
    running = asyncio.create_task(load.run())
    try:
        await asyncio.sleep(timing.calm_s)
        if early := [one.failure for one in load.asked if one.failure]:
            raise OperationError(f"{len(early)} requests failed before it: {early[0]}")
        began_s = loop.time()
        await asyncio.to_thread(disturbance.act, stack, victim)
        await asyncio.sleep(max(began_s + timing.watch_s - loop.time(), timing.after_s))
    finally:
        ended_s = loop.time()
        load.stop()
        await running
    return figures(load.asked, began_s, ended_s)
