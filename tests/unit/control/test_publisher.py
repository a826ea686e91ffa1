"""The publisher: everybody gets the newest list, one write at a time, and keeps it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from lbctl.config import Control
from lbctl.control.publisher import Publisher
from lbctl.control.tasks import Tasks
from lbctl.core.membership import Course
from lbctl.model import Backend, ControlStats, Member, Membership
from tests.support.deadlines import eventually
from tests.support.fakes import FakeWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AT = datetime(2026, 11, 22, tzinfo=UTC)
EMPTY = Membership(0, AT, ())
CONTROL = Control(publish_timeout_s=1.0, publish_retry_min_s=0.01, publish_retry_max_s=0.05)


def backend(name: str) -> Backend:
    return Backend(name, name, f"10.0.0.{ord(name)}")


def targets(names: str, number: int = 1) -> dict[str, Course]:
    return {name: Course(backend(name), number) for name in names}


def listing(generation: int, names: str) -> Membership:
    return Membership(generation, AT, tuple(Member(backend(name), AT) for name in names))


class Harness:
    def __init__(self, control: Control = CONTROL) -> None:
        self.writer = FakeWriter()
        self.stats = ControlStats()
        self.taken: list[tuple[str, int]] = []
        self.refused: list[tuple[str, str]] = []
        self.tasks = Tasks(on_failure=lambda: None)
        self.publisher = self.make(control)

    def make(self, control: Control) -> Publisher:
        return Publisher(
            self.writer,
            control,
            self.stats,
            lambda backend_id, generation: self.taken.append((backend_id, generation)),
            lambda backend_id, reason: self.refused.append((backend_id, reason)),
            self.tasks,
            EMPTY,
            chance=lambda: 0.0,
        )


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    it = Harness()
    yield it
    await it.tasks.close()
    it.tasks.raise_failure()


async def test_everybody_gets_the_list_and_says_so(harness: Harness) -> None:
    harness.publisher.publish(EMPTY, targets("abc"))
    await eventually(lambda: len(harness.taken) == 3)
    assert sorted(harness.taken) == [("a", 0), ("b", 0), ("c", 0)]
    harness.publisher.publish(listing(1, "abc"), targets("abc"))
    await eventually(lambda: len(harness.taken) == 6)
    assert harness.writer.ips("b") == ["10.0.0.97", "10.0.0.98", "10.0.0.99"]


async def test_the_latest_wins_and_there_is_one_write_at_a_time(harness: Harness) -> None:
    gate = harness.writer.gates["a"] = asyncio.Event()
    for generation in range(1, 6):
        harness.publisher.publish(listing(generation, "a"), targets("a"))
        await eventually(lambda: harness.writer.writes)
    gate.set()
    await eventually(lambda: ("a", 5) in harness.taken)
    assert harness.writer.writes == [("a", 1), ("a", 5)]
    assert harness.writer.most_in_flight == 1


async def test_no_more_than_its_share_at_a_time(harness: Harness) -> None:
    harness.publisher = harness.make(replace(CONTROL, publish_concurrency=2))
    gate = asyncio.Event()
    harness.writer.gates = dict.fromkeys("abcdef", gate)
    harness.publisher.publish(listing(1, ""), targets("abcdef"))
    await eventually(lambda: harness.writer.in_flight == 2)
    harness.publisher.publish(listing(2, ""), targets("abcdef"))
    gate.set()
    await eventually(lambda: set(harness.taken) >= {(name, 2) for name in "abcdef"})
    assert harness.writer.most_in_flight == 2
    # those that waited for their turn went straight to the newest
    assert sum(generation == 1 for _, generation in harness.writer.writes) == 2


async def test_rewriting_writes_the_same_list_to_all_again(harness: Harness) -> None:
    harness.publisher.publish(listing(1, "ab"), targets("ab"))
    await eventually(lambda: len(harness.taken) == 2)
    progress = harness.publisher.rewrite()
    assert progress() == (0, [("a", "not written to yet"), ("b", "not written to yet")])
    await eventually(lambda: progress() == (2, []))
    assert sorted(harness.writer.writes) == [("a", 1)] * 2 + [("b", 1)] * 2
    harness.publisher.publish(listing(2, "b"), targets("b"))
    assert progress()[1] == []


async def test_who_left_meanwhile_is_not_waited_for(harness: Harness) -> None:
    harness.publisher.publish(listing(1, "ab"), targets("ab"))
    await eventually(lambda: len(harness.taken) == 2)
    harness.writer.gates["a"] = asyncio.Event()
    progress = harness.publisher.rewrite()
    await eventually(lambda: progress() == (1, [("a", "not written to yet")]))
    harness.publisher.publish(listing(2, "b"), targets("b"))
    assert progress() == (1, [])


async def test_a_failure_is_told_and_tried_again(harness: Harness) -> None:
    harness.writer.failing["a"] = "it refused the token"
    harness.publisher.publish(listing(1, "ab"), targets("ab"))
    await eventually(lambda: len(harness.refused) >= 3)
    assert ("b", 1) in harness.taken
    assert set(harness.refused) == {("a", "it refused the token")}
    assert harness.stats.publish_failures["a"] >= 3
    del harness.writer.failing["a"]
    await eventually(lambda: ("a", 1) in harness.taken)


async def test_a_write_that_hangs_is_given_up(harness: Harness) -> None:
    harness.publisher = harness.make(replace(CONTROL, publish_timeout_s=0.05))
    gate = harness.writer.gates["a"] = asyncio.Event()
    harness.publisher.publish(listing(1, "a"), targets("a"))
    await eventually(lambda: ("a", "timed out after 0.05 s") in harness.refused)
    gate.set()
    await eventually(lambda: ("a", 1) in harness.taken)


async def test_after_a_failed_write_the_next_one_is_checked_soon(harness: Harness) -> None:
    """The failed one may have been carried out late, over the newer list."""
    harness.publisher = harness.make(replace(CONTROL, publish_timeout_s=0.05))
    harness.writer.failing["a"] = "timed out"
    harness.publisher.publish(listing(1, "a"), targets("a"))
    await eventually(lambda: harness.refused)
    del harness.writer.failing["a"]
    await eventually(lambda: ("a", 1) in harness.taken)
    harness.writer.held["a"] = EMPTY
    await eventually(lambda: harness.writer.held["a"].generation == 1)


async def test_drift_is_repaired(harness: Harness) -> None:
    harness.publisher = harness.make(replace(CONTROL, repair_interval_s=0.05))
    harness.publisher.publish(listing(1, "ab"), targets("ab"))
    await eventually(lambda: len(harness.taken) == 2)
    harness.writer.held["a"] = EMPTY  # it restarted with a blank file
    await eventually(lambda: harness.writer.held["a"].generation == 1)
    await eventually(lambda: harness.writer.checks >= 4)
    assert [name for name, _ in harness.writer.writes] == ["a", "b", "a"]


async def test_one_that_holds_the_list_is_left_in_peace(harness: Harness) -> None:
    harness.publisher.publish(listing(1, "a"), targets("a"))
    await eventually(lambda: harness.taken)
    harness.publisher.publish(harness.writer.held["a"], targets("a"))
    harness.publisher.publish(listing(2, "ab"), targets("ab"))
    await eventually(lambda: len(harness.taken) == 3)
    assert harness.writer.writes[0] == ("a", 1)
    assert sorted(harness.writer.writes[1:]) == [("a", 2), ("b", 2)]


async def test_a_new_course_is_written_to_though_the_list_is_the_same(harness: Harness) -> None:
    membership = listing(1, "a")
    harness.publisher.publish(membership, targets("a"))
    await eventually(lambda: harness.taken == [("a", 1)])
    harness.publisher.publish(membership, targets("a", number=2))
    await eventually(lambda: harness.taken == [("a", 1), ("a", 1)])


async def test_nothing_is_heard_of_one_that_is_no_target_any_more(harness: Harness) -> None:
    gate = harness.writer.gates["a"] = asyncio.Event()
    membership = listing(1, "ab")
    harness.publisher.publish(membership, targets("ab"))
    await eventually(lambda: harness.writer.in_flight == 1 and harness.taken)
    harness.publisher.publish(membership, targets("b"))
    gate.set()
    await eventually(lambda: harness.writer.in_flight == 0)
    assert (harness.taken, harness.refused) == ([("b", 1)], [])


async def test_the_time_to_the_last_member_is_measured_once_a_list(harness: Harness) -> None:
    gate = harness.writer.gates["a"] = asyncio.Event()
    harness.writer.failing["x"] = "it is no member and must not count"
    membership = listing(1, "ab")
    harness.publisher.publish(membership, targets("abx"))
    await eventually(lambda: ("b", 1) in harness.taken)
    assert sum(harness.stats.publish_buckets) == 0
    gate.set()
    await eventually(lambda: sum(harness.stats.publish_buckets) == 1)
    assert sum(harness.stats.publish_buckets) == 1
    assert harness.stats.publish_sum_s > 0
    harness.publisher.publish(membership, targets("abx", number=2))
    await eventually(lambda: len(harness.taken) == 4)
    assert sum(harness.stats.publish_buckets) == 1
