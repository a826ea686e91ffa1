"""The prober: who is checked, how soon, and who is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from lbctl.config import Health
from lbctl.control.prober import Prober
from lbctl.control.tasks import Tasks
from lbctl.core.membership import Course
from lbctl.model import Backend, ProbeResult
from tests.support.deadlines import eventually
from tests.support.fakes import FakeProbe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def courses(names: str, number: int = 1) -> dict[str, Course]:
    return {name: Course(Backend(name, name, "10.0.0.1"), number) for name in names}


class Harness:
    def __init__(self) -> None:
        self.probe = FakeProbe()
        self.results: list[tuple[str, ProbeResult]] = []
        self.tasks = Tasks(on_failure=lambda: None)
        self.prober = self.make(Health(probe_interval_s=60.0, first_probe_interval_s=0.01))

    def make(self, health: Health) -> Prober:
        return Prober(
            self.probe,
            health,
            lambda backend_id, result: self.results.append((backend_id, result)),
            self.tasks,
            chance=lambda: 0.5,
        )


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    it = Harness()
    yield it
    await it.tasks.close()
    it.tasks.raise_failure()


async def test_the_first_check_comes_at_once_and_the_next_after_the_interval(
    harness: Harness,
) -> None:
    harness.prober.check(courses("ab"))
    await eventually(lambda: len(harness.results) == 2)
    assert {name for name, result in harness.results if result.passed} == {"a", "b"}
    harness.prober.check(courses("abc"))
    await eventually(lambda: len(harness.results) == 3)
    assert harness.probe.counts == {"a": 1, "b": 1, "c": 1}


async def test_a_newcomer_that_fails_is_checked_often(harness: Harness) -> None:
    harness.probe.failing["a"] = "connection refused"
    harness.prober.check(courses("a"))
    await eventually(lambda: len(harness.results) >= 5, within=2.0)
    harness.probe.failing.clear()
    await eventually(lambda: harness.results[-1][1].passed)


async def test_it_goes_on(harness: Harness) -> None:
    harness.prober = harness.make(Health(probe_interval_s=0.05, first_probe_interval_s=0.01))
    harness.prober.check(courses("a"))
    await eventually(lambda: len(harness.results) >= 3)


async def test_one_that_is_suspected_is_checked_at_once(harness: Harness) -> None:
    harness.prober.check(courses("ab"))
    await eventually(lambda: len(harness.results) == 2)
    for _ in range(1000):
        harness.prober.check_now("a")
    harness.prober.check_now("stranger")
    await eventually(lambda: harness.probe.counts["a"] == 2)
    harness.prober.check_now("b")
    await eventually(lambda: harness.probe.counts["b"] == 2)
    assert harness.probe.counts["a"] == 2  # once, not a thousand times


async def test_one_that_is_not_to_be_checked_is_not_heard_of_any_more(harness: Harness) -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    async def slow(backend: Backend) -> ProbeResult:
        started.set()
        await may_end.wait()
        return ProbeResult("", 0.0)

    prober = Prober(
        slow, Health(), lambda name, result: harness.results.append((name, result)), harness.tasks
    )
    prober.check(courses("a"))
    await started.wait()
    prober.check({})
    may_end.set()
    await harness.tasks.close()
    assert harness.results == []


async def test_a_new_course_begins_with_a_check_at_once(harness: Harness) -> None:
    harness.prober.check(courses("a"))
    await eventually(lambda: len(harness.results) == 1)
    harness.prober.check(courses("a", number=2))
    await eventually(lambda: len(harness.results) == 2)
