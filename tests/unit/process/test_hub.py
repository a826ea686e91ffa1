"""The controller's end of the workers: scripted workers on a real unix socket."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from lbctl.model import Failure, Snapshot
from lbctl.paths import Paths
from lbctl.process import wire
from tests.support.deadlines import eventually, scaled
from tests.unit.process.scripted import BACKEND, connect, join, serving

if TYPE_CHECKING:
    from pathlib import Path

    from lbctl.process.hub import Hub


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path, tmp_path / "secrets")


def answered(hub: Hub) -> int:
    return sum(sum(counted.codes) for counted in hub.totals().backends.values())


def has_answered(hub: Hub, count: int) -> bool:
    return answered(hub) == count


async def test_a_snapshot_reaches_workers_of_now_and_of_later(paths: Paths) -> None:
    async with serving(paths) as hub:
        first = await join(paths)
        first.report(0)
        await hub.connected(1, scaled(5))
        snapshot = Snapshot(3, 1, (BACKEND,))
        hub.route(snapshot)
        assert await first.snapshot() == snapshot
        assert await (await join(paths, "life-2")).snapshot() == snapshot
        assert wire.snapshot_of(json.loads(paths.snapshot.read_bytes())) == snapshot


async def test_unrouted_waits_for_every_worker_to_know_and_to_finish(paths: Paths) -> None:
    async with serving(paths) as hub:
        workers = [await join(paths, "one"), await join(paths, "two")]
        for worker in workers:
            worker.report(1, in_flight=1)
        await hub.connected(2, scaled(5))
        hub.route(Snapshot(2, 2, ()))
        waiting = asyncio.create_task(hub.unrouted("b1", scaled(10)))
        workers[0].report(2, ok=1, in_flight=0)
        workers[1].report(2, in_flight=1)
        await eventually(lambda: hub.in_flight("b1") == 1)
        assert not waiting.done()
        workers[1].report(1, ok=1, in_flight=0)  # idle, but it still routes on the old one
        await eventually(lambda: hub.in_flight("b1") == 0)
        assert not waiting.done()
        workers[1].report(2, ok=1, in_flight=0)
        assert await waiting == 0


async def test_unrouted_gives_up_at_its_deadline_and_says_what_is_left(paths: Paths) -> None:
    async with serving(paths) as hub:
        worker = await join(paths)
        worker.report(1, in_flight=3)
        await hub.connected(1, scaled(5))
        hub.route(Snapshot(2, 2, ()))
        assert await hub.unrouted("b1", 0.05) == 3


async def test_unrouted_does_not_wait_for_a_worker_that_died(paths: Paths) -> None:
    async with serving(paths) as hub:
        worker = await join(paths)
        worker.report(1, in_flight=3)
        await hub.connected(1, scaled(5))
        hub.route(Snapshot(2, 2, ()))
        waiting = asyncio.create_task(hub.unrouted("b1", scaled(10)))
        await worker.leave()
        assert await waiting == 0


async def test_counters_stay_when_their_worker_is_gone(paths: Paths) -> None:
    async with serving(paths) as hub:
        first = await join(paths, "one")
        first.report(0, ok=5)
        await eventually(lambda: answered(hub) == 5)
        await first.leave()
        second = await join(paths, "two")
        second.report(0, ok=3)
        await eventually(lambda: answered(hub) == 8)
        totals = hub.totals()
        assert totals.refused == {"host": 8}
        assert totals.lost_lines == 16
        assert totals.backends["b1"].retries == {"stale": 8}
        assert totals.backends["b1"].buckets[0] == 8
        assert totals.connections == {"downstream": 2, "upstream": 1}


async def test_a_report_heard_twice_counts_once(paths: Paths) -> None:
    async with serving(paths) as hub:
        worker = await join(paths)
        worker.report(0, ok=5)
        worker.report(0, ok=5)
        await worker.leave()
        worker = await join(paths)  # the same life, connected again
        worker.report(0, ok=6)
        await eventually(lambda: answered(hub) == 6)


async def test_a_worker_may_forget_a_backend_that_left_and_count_anew(paths: Paths) -> None:
    async with serving(paths) as hub:
        worker = await join(paths)
        worker.report(0, ok=5)
        await eventually(lambda: answered(hub) == 5)
        worker.report(0, ok=1, pool=2)
        worker.report(0, ok=2, pool=2)
        await eventually(lambda: answered(hub) == 7)


async def test_however_much_it_counts_anew_before_it_is_heard(paths: Paths) -> None:
    async with serving(paths) as hub:
        worker = await join(paths)
        worker.report(0, ok=3)
        worker.report(0, ok=5, pool=2)
        await eventually(lambda: answered(hub) == 8)


async def test_and_where_it_has_only_second_tries_to_count(paths: Paths) -> None:
    async with serving(paths) as hub:
        worker = await join(paths)
        worker.report(0, stale=5)
        worker.report(0, stale=0, pool=2)
        worker.report(0, stale=2, pool=2, ok=1)
        await eventually(lambda: answered(hub) == 1)
        retries = [Counter(one.retries) for one in hub.totals().backends.values()]
        assert sum(retries, Counter()) == {"stale": 7}


async def test_counters_outlive_the_controller(paths: Paths) -> None:
    async with serving(paths) as hub:
        worker = await join(paths, "one")
        worker.report(0, ok=5)
        await eventually(lambda: answered(hub) == 5)
    async with serving(paths) as hub:
        assert answered(hub) == 5
        worker = await join(paths, "one")
        worker.report(0, ok=7)
        await eventually(lambda: answered(hub) == 7)


async def test_many_lives_are_added_up_and_lose_nothing(paths: Paths) -> None:
    async with serving(paths) as hub:
        for number in range(100):
            worker = await join(paths, f"life-{number}")
            worker.report(0, ok=1)
            await eventually(partial(has_answered, hub, number + 1))
            await worker.leave()
    assert len(json.loads(paths.counters.read_bytes())) <= 70
    async with serving(paths) as hub:
        assert answered(hub) == 100


async def test_backends_that_come_and_go_leave_their_counts_and_no_more(paths: Paths) -> None:
    async with serving(paths) as hub:
        worker = await join(paths)
        for turn in range(500):
            worker.report(0, ok=1, id=f"b{turn}", name=f"web-{turn % 5}", everything=True)
        await eventually(partial(has_answered, hub, 500))
        names = Counter(counted.name for counted in hub.totals().backends.values())
        assert names.keys() == {f"web-{number}" for number in range(5)}
        assert len(hub.totals().backends) <= 6  # five that are gone, one that is not


async def test_so_do_those_whose_names_never_come_again(paths: Paths) -> None:
    async with serving(paths) as hub:
        worker = await join(paths)
        for turn in range(1500):
            worker.report(0, ok=1, id=f"b{turn}", name=f"web-{turn}", everything=True)
        await eventually(partial(has_answered, hub, 1500))
        backends = hub.totals().backends
        assert len(backends) <= 1001
        assert {counted.name for counted in backends.values()} >= {"(gone)", "web-1499"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"one": {}}', '{"one": {"backends": {"b": {}}}}'])
async def test_counters_that_cannot_be_read_start_at_zero(paths: Paths, text: str) -> None:
    paths.counters.write_text(text)
    async with serving(paths) as hub:
        assert hub.totals().backends == {}


async def test_a_suspicion_is_passed_on(paths: Paths) -> None:
    suspects: list[str] = []
    async with serving(paths, suspects):
        (await join(paths)).say({"suspect": "b1"})
        await eventually(lambda: suspects == ["b1"])


async def test_a_row_of_failures_is_passed_on_with_its_cause(paths: Paths) -> None:
    failing: list[tuple[str, Failure]] = []
    async with serving(paths, failing=failing):
        (await join(paths)).say({"failing": "b1", "reason": "5xx"})
        await eventually(lambda: failing == [("b1", Failure.ANSWER)])


async def test_garbage_ends_one_connection_and_nothing_else(paths: Paths) -> None:
    async with serving(paths) as hub:
        for garbage in (b"\xff\n", b"{}\n", b'{"hello": 1}\n', b"[]\n"):
            stranger = await connect(paths)
            stranger.writer.write(garbage)
            async with asyncio.timeout(scaled(5)):
                assert await stranger.reader.read() == b""
        worker = await join(paths)
        worker.report(0, ok=1)
        await eventually(lambda: answered(hub) == 1)


@pytest.mark.parametrize(
    ("key", "value"), [("revision", "x"), ("connections", []), ("backends", {"b1": {}})]
)
async def test_a_worker_that_lies_is_cut_off_and_hurts_nobody(
    paths: Paths, key: str, value: object
) -> None:
    async with serving(paths) as hub:
        honest, liar = await join(paths), await join(paths, "liar")
        honest.report(1, ok=2)
        await eventually(lambda: answered(hub) == 2)
        report = {
            "revision": 1, "everything": False, "tasks": 1, "refused": {}, "backends": {},
            "connections": {"downstream": 0, "upstream": 0},
        }  # fmt: skip
        liar.say({"report": report | {key: value}})
        async with asyncio.timeout(scaled(5)):
            assert await liar.reader.read() == b""
        await hub.connected(1, 5.0)
        assert answered(hub) == 2
    async with serving(paths) as hub:
        assert answered(hub) == 2


async def test_a_stranger_is_not_heard(paths: Paths) -> None:
    async with serving(paths, uid=os.geteuid() + 1) as hub:
        stranger = await connect(paths)
        async with asyncio.timeout(scaled(5)):
            assert await stranger.reader.read() == b""
        assert hub.totals().backends == {}


async def test_a_new_leader_takes_the_place_of_the_last_one(paths: Paths) -> None:
    async with serving(paths) as one:
        await join(paths)
        async with serving(paths) as other:
            other.route(Snapshot(5, 1, (BACKEND,)))
            worker = await join(paths, "life-2")
            assert (await worker.snapshot()).revision == 5
        assert one is not other
