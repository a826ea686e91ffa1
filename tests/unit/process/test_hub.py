"""The controller's end of the workers: scripted workers on a real unix socket."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.errors import OperationError
from lbctl.model import DURATION_BUCKETS_S, Backend, Failure, Process, Snapshot
from lbctl.paths import Paths
from lbctl.process import wire
from lbctl.process.hub import Hub
from tests.support.deadlines import eventually, scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BACKEND = Backend("b1", "web-1", "10.0.0.1")


class ScriptedWorker:
    """Says what the test tells it to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, document: dict[str, Any]) -> None:
        self.writer.write(wire.encode(document))

    def report(
        self,
        revision: int,
        ok: int = 0,
        in_flight: int = 0,
        name: str = "web-1",
        *,
        pool: int = 1,
        id: str = "b1",  # noqa: A002
        everything: bool = False,
        stale: int | None = None,
    ) -> None:
        counted = {
            "name": name,
            "pool": pool,
            "codes": [0, ok, 0, 0, 0],
            "buckets": [ok] + [0] * len(DURATION_BUCKETS_S),
            "duration_sum_s": ok / 1000,
            "in_flight": in_flight,
            "retries": {"stale": ok if stale is None else stale},
        }
        self.say(
            {
                "report": {
                    "revision": revision,
                    "everything": everything,
                    "tasks": 4,
                    "connections": {"downstream": 2, "upstream": 1},
                    "refused": {"host": ok},
                    "lost": 2 * ok,
                    "backends": {id: counted},
                }
            }
        )

    async def snapshot(self) -> Snapshot:
        async with asyncio.timeout(scaled(5)):
            return wire.snapshot_of(wire.decode(await self.reader.readline())["snapshot"])

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path, tmp_path / "secrets")


@asynccontextmanager
async def serving(
    paths: Paths,
    suspects: list[str] | None = None,
    uid: int | None = None,
    failing: list[tuple[str, Failure]] | None = None,
) -> AsyncIterator[Hub]:
    heard = [] if suspects is None else suspects
    rows = [] if failing is None else failing
    hub = Hub(
        paths,
        {os.geteuid() if uid is None else uid},
        heard.append,
        lambda backend_id, cause: rows.append((backend_id, cause)),
        lb="a",
    )
    await hub.start()
    try:
        yield hub
    finally:
        await hub.close()
        while open_ends:
            with suppress(OSError):
                await open_ends.pop().leave()


open_ends: list[ScriptedWorker] = []


async def connect(paths: Paths) -> ScriptedWorker:
    worker = ScriptedWorker(*await asyncio.open_unix_connection(str(paths.workers_socket)))
    open_ends.append(worker)
    return worker


async def join(paths: Paths, life: str = "life-1", name: str = "worker-0") -> ScriptedWorker:
    worker = await connect(paths)
    worker.say({"hello": {"life": life, "name": name, "pid": os.getpid()}})
    return worker


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


class ScriptedPeer:
    """The controller of another lb, as far as the leader sees it."""

    def __init__(self, worker: ScriptedWorker) -> None:
        self._end = worker

    def say(self, document: dict[str, Any]) -> None:
        self._end.say(document)

    async def heard(self) -> dict[str, Any]:
        async with asyncio.timeout(scaled(5)):
            return wire.decode(await self._end.reader.readline())

    async def rest(self) -> bytes:
        async with asyncio.timeout(scaled(5)):
            return await self._end.reader.read()

    async def leave(self) -> None:
        open_ends.remove(self._end)
        await self._end.leave()


async def follow(paths: Paths, lb: str) -> ScriptedPeer:
    peer = ScriptedPeer(await connect(paths))
    peer.say({"peer": lb})
    return peer


WHEN = datetime(2026, 11, 27, 5, 0, tzinfo=UTC)
ROWS = wire.process_rows([Process("worker", "b/worker-0", 7, 0, WHEN, "b")])


async def test_the_processes_of_another_lb_are_known_as_long_as_it_is_there(paths: Paths) -> None:
    async with serving(paths) as hub:
        peer = await follow(paths, "b")
        peer.say({"processes": ROWS})
        await eventually(lambda: [lb for lb, processes in hub.peers() if processes] == ["b"])
        [(_, (process,))] = hub.peers()
        assert (process.lb, process.name, process.started_at) == ("b", "b/worker-0", WHEN)
        await open_ends.pop().leave()
        await eventually(lambda: not hub.peers())


async def test_an_lb_that_is_replaced_is_there_twice(paths: Paths) -> None:
    async with serving(paths) as hub:
        for pid in (7, 8):
            rows = wire.process_rows([Process("worker", "b/worker-0", pid, 0, WHEN, "b")])
            (await follow(paths, "b")).say({"processes": rows})
        await eventually(lambda: len([True for _, rows in hub.peers() if rows]) == 2)
        assert {one.pid for _, (one,) in hub.peers()} == {7, 8}


async def test_other_lbs_reload_one_after_the_other(paths: Paths) -> None:
    async with serving(paths) as hub:
        second, first = await follow(paths, "c"), await follow(paths, "b")
        await eventually(lambda: len(hub.peers()) == 2)
        reloading = asyncio.create_task(hub.reload_peers(scaled(5)))
        assert await first.heard() == {"reload": {}}
        assert not reloading.done()
        first.say({"reloaded": ""})
        await follow(paths, "b")
        assert await second.heard() == {"reload": {}}
        second.say({"reloaded": ""})
        await follow(paths, "c")
        await reloading


async def test_no_other_reloads_before_the_last_one_has_a_controller_again(paths: Paths) -> None:
    async with serving(paths) as hub:
        second, first = await follow(paths, "c"), await follow(paths, "b")
        await eventually(lambda: len(hub.peers()) == 2)
        reloading = asyncio.create_task(hub.reload_peers(scaled(5)))
        await first.heard()
        first.say({"reloaded": ""})
        await first.leave()
        await eventually(lambda: len(hub.peers()) == 1)
        hearing = asyncio.create_task(second.heard())
        second.say({"processes": ROWS})  # heard after all that was said before
        await eventually(lambda: all(processes for _, processes in hub.peers()))
        assert not hearing.done()
        await follow(paths, "b")
        assert await hearing == {"reload": {}}
        second.say({"reloaded": ""})
        assert not reloading.done()
        await follow(paths, "c")
        await reloading


async def test_one_that_does_not_come_back_is_not_waited_for_for_ever(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(paths) as hub:
        peer = await follow(paths, "b")
        await eventually(lambda: hub.peers())
        reloading = asyncio.create_task(hub.reload_peers(0.2))
        await peer.heard()
        peer.say({"reloaded": ""})
        await reloading
    assert "the controller of lb b is not back after its reload" in caplog.text


@pytest.mark.parametrize("gone", [False, True])
async def test_an_lb_that_does_not_reload_is_named(paths: Paths, gone: bool) -> None:
    async with serving(paths) as hub:
        peer = await follow(paths, "b")
        await eventually(lambda: hub.peers())
        reloading = asyncio.create_task(hub.reload_peers(scaled(5)))
        await peer.heard()
        if gone:
            await open_ends.pop().leave()
        else:
            peer.say({"reloaded": "no"})
        why = "its controller is gone" if gone else "no"
        with pytest.raises(OperationError, match=f"lb b has not reloaded: {why}"):
            await reloading


async def test_a_new_leader_takes_the_place_of_the_last_one(paths: Paths) -> None:
    async with serving(paths) as one:
        await join(paths)
        async with serving(paths) as other:
            other.route(Snapshot(5, 1, (BACKEND,)))
            worker = await join(paths, "life-2")
            assert (await worker.snapshot()).revision == 5
        assert one is not other


async def test_an_lb_that_missed_a_reload_is_set_right_once(paths: Paths) -> None:
    async with serving(paths) as hub:
        hub.settings_digest = lambda: "new"
        right = ScriptedPeer(await connect(paths))
        right.say({"peer": "c", "settings": "new"})
        for again in (False, True):
            peer = ScriptedPeer(await connect(paths))
            peer.say({"peer": "b", "settings": "old"})
            if not again:
                assert await peer.heard() == {"reload": {}}
            else:  # its environment says so: it is asked nothing until somebody reloads
                await eventually(lambda: len(hub.peers()) == 2)
                reloading = asyncio.create_task(hub.reload_peers(scaled(5)))
                assert await peer.heard() == {"reload": {}}
                peer.say({"reloaded": ""})
                await follow(paths, "b")
                assert await right.heard() == {"reload": {}}
                right.say({"reloaded": ""})
                await follow(paths, "c")
                await reloading
            if not again:
                await open_ends.pop().leave()
                await eventually(lambda: [lb for lb, _ in hub.peers()] == ["c"])


async def test_an_lb_that_serves_and_has_no_controller_yet_is_waited_for(paths: Paths) -> None:
    async with serving(paths) as hub:
        hub.settings_digest = lambda: "new"
        (await join(paths, name="b/worker-0")).report(0)
        await hub.connected(1, scaled(5))
        reloading = asyncio.create_task(hub.reload_peers(scaled(5)))
        peer = ScriptedPeer(await connect(paths))
        peer.say({"peer": "b", "settings": "old"})
        assert await peer.heard() == {"reload": {}}
        assert not reloading.done()
        peer.say({"reloaded": ""})
        await follow(paths, "b")
        await reloading
        await hub.close()
        assert await peer.rest() == b""


async def test_an_lb_that_has_no_controller_for_long_is_not_waited_for(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(paths) as hub:
        for lb in "ab":
            (await join(paths, f"life-{lb}", f"{lb}/worker-0")).report(0)
        await hub.connected(2, scaled(5))
        await hub.reload_peers(0.1)
    assert "lb b has no controller: it is to reload when it has one" in caplog.text
    assert "lb a" not in caplog.text  # it is the one that leads


async def test_one_that_left_while_others_reload_is_not_waited_for(paths: Paths) -> None:
    async with serving(paths) as hub:
        first, second = await follow(paths, "b"), await follow(paths, "c")
        await eventually(lambda: len(hub.peers()) == 2)
        reloading = asyncio.create_task(hub.reload_peers(scaled(60)))
        await first.heard()
        await open_ends.pop().leave()
        await eventually(lambda: len(hub.peers()) == 1)
        first.say({"reloaded": ""})
        await follow(paths, "b")
        async with asyncio.timeout(scaled(5)):
            await reloading
        assert second is not first
