"""The reconciler with real prober and publisher, and fakes around them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.config import Control, Health
from lbctl.control.reconciler import Reconciler
from lbctl.model import ControlStats, EngineHealth, Failure, Phase, State
from tests.support.deadlines import eventually
from tests.support.fakes import FakeProbe, FakeRoutes, FakeWriter, MemoryStore, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lbctl.model import Backend, Instance, ProbeResult

HEALTH = Health(probe_interval_s=0.05, first_probe_interval_s=0.01)
CONTROL = Control(publish_retry_min_s=0.01, publish_retry_max_s=0.05)


class Harness:
    def __init__(self, store: MemoryStore | None = None, health: Health = HEALTH) -> None:
        self.probe, self.writer, self.routes = FakeProbe(), FakeWriter(), FakeRoutes()
        self.store = store or MemoryStore()
        self.stats = ControlStats()
        self.reconciler = Reconciler(
            health,
            CONTROL,
            probe=self.probe,
            writer=self.writer,
            routes=self.routes,
            store=self.store,
            stats=self.stats,
        )

    def observe(self, *instances: Instance) -> None:
        self.reconciler.observe(instances)

    async def up(self, *names: str) -> None:
        self.observe(*(running(name) for name in names))
        await self.routed(*names)

    async def routed(self, *names: str) -> None:
        await eventually(lambda: list(self.routes.routed) == list(names))
        await eventually(lambda: not self.reconciler.lagging())

    def states(self) -> dict[str, State]:
        return {row.name: row.state for row in self.reconciler.backends()}


@asynccontextmanager
async def reconciling(
    store: MemoryStore | None = None, health: Health = HEALTH
) -> AsyncIterator[Harness]:
    it = Harness(store, health)
    task = asyncio.create_task(it.reconciler.run())
    try:
        yield it
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_from_nothing_to_everybody_up_with_the_right_list() -> None:
    async with reconciling() as it:
        await it.up("a", "b", "c")
        assert set(it.states().values()) == {State.UP}
        assert it.writer.ips("a") == it.writer.ips("c") == ["10.0.0.97", "10.0.0.98", "10.0.0.99"]
        assert it.reconciler.membership().generation == 1
        assert sum(it.stats.publish_buckets) == 1


async def test_nothing_is_said_before_the_runtime_was_listed() -> None:
    async with reconciling() as it:
        assert not it.reconciler.observed
        it.reconciler.drain(["a"], "it leaves")
        assert (it.routes.snapshots, it.writer.writes, it.store.saves) == ([], [], 0)


async def test_what_was_saved_goes_on_while_the_runtime_says_nothing() -> None:
    async with reconciling() as before:
        await before.up("a", "b")
    async with reconciling(store=before.store) as it:
        it.reconciler.presume()
        assert not it.reconciler.observed
        assert it.routes.routed == ["a", "b"]
        await eventually(lambda: {"a", "b"} <= it.writer.held.keys() & it.probe.counts.keys())
        it.probe.failing["a"] = "answered 503"
        await it.routed("b")
        await eventually(lambda: it.writer.ips("b") == ["10.0.0.98"])
        it.observe(running("b"), running("c"))
        await it.routed("b", "c")


async def test_one_that_leaves_is_unrouted_before_the_call_returns() -> None:
    async with reconciling() as it:
        await it.up("a", "b")
        it.observe(running("a", phase=Phase.STOPPING), running("b"))
        assert it.routes.routed == ["b"]
        await eventually(lambda: it.writer.ips("b") == ["10.0.0.98"])


async def test_drain_and_undrain() -> None:
    async with reconciling() as it:
        await it.up("a", "b", "c")
        it.reconciler.drain(["a", "b"], "drained by hand")
        assert it.routes.routed == ["c"]
        assert it.reconciler.membership().generation == 2
        assert it.reconciler.backends()[0].reason == "drained by hand"
        it.reconciler.undrain(["a"])
        await it.routed("a", "c")


async def test_who_is_let_in_again_does_not_wait_for_the_next_check() -> None:
    rarely = Health(probe_interval_s=60, first_probe_interval_s=0.01)
    async with reconciling(health=rarely) as it:
        await it.up("a", "b")
        it.reconciler.drain(["a"], "by hand")
        await it.routed("b")
        it.reconciler.undrain(["a"])
        await it.routed("a", "b")


async def test_one_that_fails_its_checks_leaves_and_comes_back() -> None:
    async with reconciling() as it:
        await it.up("a", "b")
        it.probe.failing["a"] = "answered 503"
        await it.routed("b")
        row = it.reconciler.backends()[0]
        assert (row.state, row.reason) == (State.DOWN, "its checks fail: answered 503")
        del it.probe.failing["a"]
        await it.routed("a", "b")


async def test_one_that_takes_no_list_stays_out_and_says_why() -> None:
    async with reconciling() as it:
        it.writer.failing["b"] = "it answered 404 to PUT /ips.json"
        it.observe(running("a"), running("b"))
        await it.routed("a")
        await eventually(lambda: "404" in it.reconciler.backends()[1].reason)
        assert it.reconciler.membership().generation == 1
        del it.writer.failing["b"]
        await it.routed("a", "b")


async def test_suspicion_brings_the_next_check_forward() -> None:
    async with reconciling() as it:
        await it.up("a")
        before = it.probe.counts["a"]
        it.reconciler.suspect("a")
        await eventually(lambda: it.probe.counts["a"] > before)


async def test_one_that_requests_fail_on_is_ejected_before_the_call_returns_and_counted() -> None:
    async with reconciling() as it:
        await it.up("a", "b")
        it.reconciler.failing("a", Failure.CONNECT)
        assert it.routes.routed == ["b"]
        assert it.states()["a"] is State.EJECTED
        assert it.stats.ejections == {("a", "connect"): 1}
        await it.routed("a", "b")  # its checks pass
        it.reconciler.failing("a", Failure.ANSWER)
        assert it.stats.ejections["a", "5xx"] == 1


async def test_what_the_settings_say_of_ejections_is_heeded() -> None:
    health = Health(
        probe_interval_s=60,
        eject_failures=7,
        eject_base_s=0.1,
        eject_limit_s=0.15,
        eject_floor_percent=0,
    )
    async with reconciling(health=health) as it:
        await it.up("a", "b")
        it.reconciler.failing("a", Failure.ANSWER)
        reason = it.reconciler.backends()[0].reason
        assert reason == "ejected for 0.1 s: 7 requests in a row failed (5xx)"
        await it.routed("a", "b")
        it.reconciler.failing("a", Failure.ANSWER)
        assert it.reconciler.backends()[0].reason.startswith("ejected for 0.15 s")
        assert it.routes.routed == ["b"]


async def test_an_ejection_ends_on_time_though_nothing_else_happens() -> None:
    """No check is due for a minute, and no list is acknowledged by those that take none."""
    health = Health(probe_interval_s=60, eject_base_s=0.1)
    async with reconciling(health=health) as it:
        strangers = [running(name) for name in "ab"]
        for number, one in enumerate(strangers):
            assert one.backend is not None
            strangers[number] = replace(one, backend=replace(one.backend, publish=False))
        it.observe(*strangers)
        await it.routed("a", "b")
        it.reconciler.failing("a", Failure.ANSWER)
        assert it.routes.routed == ["b"]
        await it.routed("a", "b")


async def test_if_nobody_is_fit_all_are_served_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with reconciling() as it:
        await it.up("a", "b")
        sick = [running(name, health=EngineHealth.UNHEALTHY) for name in "ab"]
        it.observe(*sick)
        it.observe(*sick)
        assert it.routes.routed == ["a", "b"]
        it.observe(running("a"), sick[1])
        assert it.routes.routed == ["a"]
        it.observe(running("a"), running("b"))
        await it.routed("a", "b")
    said = [message for message in caplog.messages if "fit" in message]
    assert said == [
        "no backend is fit: all that ever were, and still run, are served",
        "backends that are not fit are not served any more",
    ]


async def test_a_new_controller_goes_on_where_the_last_ended() -> None:
    store = MemoryStore()
    async with reconciling(store) as first:
        await first.up("a", "b")
        last = first.routes.snapshots[-1]
        membership = first.reconciler.membership()
    async with reconciling(store) as second:
        assert second.reconciler.membership() == membership
        second.observe(running("a"), running("b"))
        assert second.routes.routed == ["a", "b"]  # at once: no check, no write came in between
        assert second.routes.snapshots[0].revision > last.revision
        await second.routed("a", "b")
        assert second.reconciler.membership() == membership
        second.observe(running("a"))
        assert second.reconciler.membership().generation == membership.generation + 1


@pytest.mark.parametrize("document", [{"generation": "no"}, [], 7])
async def test_a_broken_saved_membership_is_put_aside(document: Any) -> None:
    async with reconciling(MemoryStore(document)) as it:
        await it.up("a")
        assert it.store.document["generation"] == 1


async def test_rows_are_in_order_of_name_with_numbers_as_numbers() -> None:
    async with reconciling() as it:
        names = ["web-10", "web-9", "db", "9" * 5000]
        it.observe(*(running(name, ip=f"10.0.0.{n}") for n, name in enumerate(names)))
        assert [row.name for row in it.reconciler.backends()][1:] == ["db", "web-9", "web-10"]


async def test_states_carry_the_wall_clock() -> None:
    before = datetime.now(UTC)
    async with reconciling() as it:
        await it.up("a")
        assert before <= it.reconciler.backends()[0].since <= datetime.now(UTC)


async def test_wait_until_sees_every_acknowledgement() -> None:
    async with reconciling() as it:
        gate = it.writer.gates["a"] = asyncio.Event()
        it.observe(running("a"))
        waiting = asyncio.create_task(
            it.reconciler.wait_until(lambda: it.states() == {"a": State.UP})
        )
        gate.set()
        async with asyncio.timeout(5):
            await waiting


async def test_a_fault_in_a_task_ends_the_reconciler() -> None:
    """Half a control plane is worse than a restarted one."""

    class FaultyProbe:
        async def __call__(self, backend: Backend) -> ProbeResult:
            raise ZeroDivisionError(backend.name)

    reconciler = Reconciler(
        HEALTH,
        CONTROL,
        probe=FaultyProbe(),
        writer=FakeWriter(),
        routes=FakeRoutes(),
        store=MemoryStore(),
        stats=ControlStats(),
    )
    reconciler.observe([running("a")])
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(reconciler.run(), 5)


async def test_names_cannot_forge_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with reconciling() as it:
        nasty = running("a", backend=None, problem="lbctl.port: \x1b[31m0\nERROR all is lost")
        it.observe(replace(nasty, name="a\nERROR all is lost"))
    assert "all is lost" in caplog.text
    assert not any("\n" in message or "\x1b" in message for message in caplog.messages)


async def test_a_container_before_its_first_start_is_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with reconciling() as it:
        created = running("a", backend=None, phase=Phase.EXITED, problem="does not run (created)")
        it.observe(created)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert caplog.messages == ["a is down: does not run (created)"]
