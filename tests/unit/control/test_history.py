"""The journal: what is told on the loop is kept by threads, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.control import history as module
from lbctl.control.aging import Limits
from lbctl.control.history import History
from lbctl.control.partitions import Partitions
from lbctl.control.reader import Reader
from lbctl.control.snapshots import Snapshots
from lbctl.core.history import Event, Kind, Span, list_events
from lbctl.errors import OperationError
from lbctl.model import ControlStats, HistoryState, Membership
from lbctl.paths import Paths
from tests.support.deadlines import eventually, scaled
from tests.unit.control.past import BEGAN, EVERYTHING, Past, member

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from lbctl.core.history import Record


class Kept:
    """A journal that runs, and what it says of itself."""

    def __init__(self, state: Path, limits: Limits) -> None:
        self.paths = Paths(state, state / "secrets")
        self.stats = ControlStats()
        self.now = BEGAN
        self.journal = History(self.paths, limits, self.stats, wall=lambda: self.now)
        self.membership = Membership(0, BEGAN, ())

    def happens(self, count: int) -> None:
        for number in range(count):
            self.journal.record(Event(Kind.DOWN, "it is paused", f"b-{number}"))

    def changes_to(self, *numbers: int) -> None:
        self.now += timedelta(seconds=1)
        members = tuple(member(number) for number in numbers)
        before = self.membership
        self.membership = Membership(before.generation + 1, self.now, members)
        for event in list_events(before, self.membership, {}):
            self.journal.record(event)

    async def all(self) -> list[Record]:
        await self.journal.settled(scaled(5))
        return list(await self.journal.records(EVERYTHING))


@contextlib.asynccontextmanager
async def keeping(state: Path, limits: Limits | None = None) -> AsyncIterator[Kept]:
    it = Kept(state, limits or Limits())
    it.journal.start()
    try:
        yield it
    finally:
        await it.journal.close()


async def test_what_is_told_is_kept_and_comes_back(tmp_path: Path) -> None:
    woken: list[int] = []
    async with keeping(tmp_path) as it:
        with it.journal.listening(lambda: woken.append(it.journal.last)):
            it.happens(3)
            it.changes_to(1, 2)
            records = await it.all()
        assert woken[-1] == it.journal.last == len(records) == 6
        assert [record.seq for record in await it.journal.after(2, 3)] == [3, 4, 5]
        (one,) = await it.journal.lists(EVERYTHING)
        assert [member["name"] for member in one.members] == ["b-1", "b-2"]
        assert await it.journal.list_at(it.now) == one
        assert await it.journal.list_at(BEGAN) is None
        assert it.stats.history.state is HistoryState.KEPT
        assert it.stats.history.events == 6
        it.happens(1)  # nobody listens any more
        await it.journal.settled(scaled(5))
        assert woken[-1] == 6
    async with keeping(tmp_path) as it:
        assert len(await it.all()) == 7
        assert it.journal.last == 7


async def test_what_was_told_before_the_end_is_kept(tmp_path: Path) -> None:
    async with keeping(tmp_path) as it:
        it.happens(5_000)
    assert len(Reader(tmp_path / "history").records(EVERYTHING)) == 5_000


async def test_what_is_told_before_it_is_open_waits(tmp_path: Path) -> None:
    it = Kept(tmp_path, Limits())
    it.changes_to(1)
    it.changes_to(1, 2)
    it.journal.start()
    try:
        assert [one.kind for one in await it.all()] == ["generation", "join"] * 2
        assert [one.generation for one in await it.all()][::2] == [1, 2]
    finally:
        await it.journal.close()


async def test_who_comes_back_is_given_what_was_missed(tmp_path: Path) -> None:
    async with keeping(tmp_path, Limits(rows=100)) as it:
        it.happens(4_000)
        await it.journal.settled(scaled(5))
        seen, seq = 0, 0
        while records := await it.journal.after(seq, 300):
            assert [record.seq for record in records] == list(range(seq + 1, records[-1].seq + 1))
            seen, seq = seen + len(records), records[-1].seq
        assert seen == 4_000
        assert len(list(it.paths.history.glob("*.gz"))) > 3
        # A number of a history that was lost: rather the latest twice than any not at all.
        assert (await it.journal.after(9_999, 10))[0].seq > 2_000
        assert await it.journal.after(4_000, 10) == []


async def test_a_list_has_its_file_before_record_returns(tmp_path: Path) -> None:
    it = Kept(tmp_path, Limits())  # nothing runs that could write it later
    it.changes_to(1, 2)
    latest = json.loads((it.paths.memberships / "latest").read_text())
    assert latest["generation"] == 1
    assert latest["reason"] == "+b-1, +b-2"


async def test_a_full_queue_drops_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_LIMIT", 100)
    it = Kept(tmp_path, Limits())
    it.happens(150)
    it.changes_to(1)
    it.journal.start()
    try:
        assert len(await it.all()) == 101
        await eventually(lambda: it.stats.history.lost == 51)
        it.changes_to(1, 2)
        await it.all()
        lists = await it.journal.lists(EVERYTHING)
        assert [len(one.members) for one in lists] == [1, 2]  # there is room for those always
    finally:
        await it.journal.close()


async def test_a_list_that_was_saved_and_not_told_of(tmp_path: Path) -> None:
    async with keeping(tmp_path) as it:
        it.changes_to(1)
    saved = Membership(2, it.now + timedelta(seconds=1), (member(1), member(2)))
    for _ in range(2):
        it = Kept(tmp_path, Limits())
        it.journal.start(saved)
        latest = json.loads((it.paths.memberships / "latest").read_text())
        assert latest["generation"] == 2  # before anybody can be given it
        try:
            await it.all()
            lists = await it.journal.lists(EVERYTHING)
        finally:
            await it.journal.close()
        assert [one.record.generation for one in lists] == [1, 2]
        assert [one["name"] for one in lists[1].members] == ["b-1", "b-2"]


async def test_a_list_that_is_saved_and_cannot_be_written_down(tmp_path: Path) -> None:
    (tmp_path / "memberships").write_text("in the way")
    it = Kept(tmp_path, Limits())
    it.journal.start(Membership(7, BEGAN, (member(1),)))
    try:
        (record,) = await it.all()
    finally:
        await it.journal.close()
    assert (record.generation, record.text) == (7, "it was in force before the history knew of it")


async def test_that_there_is_no_list_yet_is_no_news(tmp_path: Path) -> None:
    it = Kept(tmp_path, Limits())
    it.journal.start(Membership(0, BEGAN, ()))
    try:
        assert await it.all() == []
    finally:
        await it.journal.close()


async def test_damage_that_a_question_meets_is_repaired(tmp_path: Path) -> None:
    async with keeping(tmp_path) as it:
        it.happens(3_000)
    async with keeping(tmp_path) as it:
        await it.journal.settled(scaled(5))
        path = tmp_path / "history" / "history.db"
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(os.urandom(8192))
        with pytest.raises(OperationError, match="the history cannot be read now"):
            await it.journal.records(EVERYTHING)
        await eventually(lambda: bool(it.journal._recent))
        assert "history.db was damaged" in it.journal._recent[-1].text
        assert len(await it.journal.records(EVERYTHING)) > 1_000


async def test_the_loop_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(
        "lbctl.control.archive.Archive._insert", lambda *_: gate.wait(scaled(10)) and None
    )
    async with keeping(tmp_path) as it:
        began = time.monotonic()
        it.happens(1_000)
        for _ in range(3):
            await it.journal.settled(0.05)  # comes back though nothing is settled
        assert it.journal._queue.qsize() <= 1_001  # and however often it is asked
        assert time.monotonic() - began < scaled(1)
        gate.set()


async def test_a_disk_that_is_full_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("in the way")
    async with keeping(tmp_path) as it:
        it.happens(3)
        await it.journal.settled(scaled(5))
        status = it.stats.history
        assert status.state is HistoryState.FAILING
        assert "; 3 events wait in memory" in status.message
        assert [record.seq for record in await it.journal.after(0, 10)] == [1, 2, 3]
        with pytest.raises(OperationError, match="the history cannot be read now"):
            await it.journal.records(EVERYTHING)
        (tmp_path / "history").unlink()
        await eventually(lambda: it.stats.history.message == "")
        assert len(await it.all()) >= 3


async def test_lists_that_cannot_be_written_down(tmp_path: Path) -> None:
    (tmp_path / "memberships").write_text("in the way")
    async with keeping(tmp_path) as it:
        it.changes_to(1)
        await it.journal.settled(scaled(5))
        assert it.stats.history.state is HistoryState.FAILING
        assert "lists are not written down" in it.stats.history.message
        (tmp_path / "memberships").unlink()
        it.changes_to(1, 2)
        await it.journal.settled(scaled(5))
        assert it.stats.history.message == ""
        assert len(await it.journal.lists(EVERYTHING)) == 2


async def test_a_fault_of_ours_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with keeping(tmp_path) as it:
        it.happens(1)
        await it.journal.settled(scaled(5))
        with monkeypatch.context() as patched:
            patched.setattr("lbctl.control.archive.record_of", lambda *_, **__: 1 / 0)
            it.happens(2)
            await it.journal.settled(scaled(5))
        assert "this should not happen to the history" in caplog.text
        await eventually(lambda: it.stats.history.lost == 2)
        it.happens(1)
        assert len(await it.all()) == 2


async def test_nor_does_one_at_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("lbctl.control.archive.Archive._open", lambda _: 1 / 0)
        async with keeping(tmp_path) as it:
            await eventually(lambda: it.stats.history.state is HistoryState.FAILING)
            assert "ZeroDivisionError" in it.stats.history.message
            assert caplog.text.count("this should not happen to the history") == 1
            patched.undo()
            await eventually(lambda: it.stats.history.state is HistoryState.KEPT)
            it.happens(2)
            assert len(await it.all()) == 2


async def test_nor_does_one_while_old_events_move_or_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lbctl.control.archive.Archive.close", lambda _: [].pop())
    async with keeping(tmp_path) as it:
        with monkeypatch.context() as patched:
            patched.setattr("lbctl.control.archive.Archive.tidy", lambda _: 1 / 0)
            it.happens(2)
            assert len(await it.all()) == 2
            await eventually(lambda: it.stats.history.state is HistoryState.FAILING)
        await eventually(lambda: it.stats.history.state is HistoryState.KEPT)
        assert it.stats.history.lost == 0
    assert it.journal._ended.is_set()
    assert "ZeroDivisionError" in caplog.text
    assert "pop from empty list" in caplog.text


async def test_a_list_that_makes_no_sense_ends_nothing(tmp_path: Path) -> None:
    past = Past(tmp_path, Limits(rows=100))
    for number in range(60):
        past.lists(number, number + 1)
    records = past.reader.records(EVERYTHING)[:25]
    Partitions(past.directory).write(records)  # and killed
    past.archive.close()
    with contextlib.closing(sqlite3.connect(past.database)) as db, db:
        db.execute("DELETE FROM events WHERE seq = 1")
    async with keeping(tmp_path) as it:
        it.happens(1)
        assert (await it.all())[-1].subject == "b-0"
        assert it.stats.history.message == ""


async def test_a_question_that_meets_a_list_without_sense_is_answered(tmp_path: Path) -> None:
    past = Past(tmp_path)
    past.lists(1, 2)
    past.archive.close()
    with contextlib.closing(sqlite3.connect(past.database)) as db, db:
        db.execute("UPDATE events SET data = '{\"members\": [{}]}' WHERE generation IS NOT NULL")
    async with keeping(tmp_path) as it:
        with pytest.raises(OperationError, match="has damage there: list"):
            await it.journal.lists(EVERYTHING)
        with pytest.raises(OperationError, match="has damage there: list"):
            await it.journal.list_at(datetime.now(UTC))
        assert await it.journal.records(EVERYTHING)


async def test_questions_while_it_is_written_and_moved(tmp_path: Path) -> None:
    """Nothing is missing, and nothing is there twice, at any moment."""
    async with keeping(tmp_path, Limits(rows=100)) as it:
        for number in range(60):
            it.happens(20)
            it.changes_to(number, number + 1)
            records = await it.journal.records(EVERYTHING)
            numbers = [record.seq for record in records]
            assert numbers == list(range(1, len(numbers) + 1))
            lists = await it.journal.lists(EVERYTHING)
            for one in lists:
                generation = one.record.generation or 0
                assert [m["name"] for m in one.members] == [
                    f"b-{generation - 1}",
                    f"b-{generation}",
                ]
        assert len(await it.all()) == 60 * 23


# A process that is killed while it writes

_VICTIM = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from lbctl.control.aging import Limits
from lbctl.control.history import History
from lbctl.core.history import Event, Kind, list_events
from lbctl.model import Backend, ControlStats, Member, Membership
from lbctl.paths import Paths

async def main(state):
    journal = History(Paths(state, state / "secrets"), Limits(rows=200), ControlStats())
    journal.start()
    generation = int(sys.argv[2])
    before = Membership(generation, datetime.now(UTC), ())
    while True:
        at = datetime.now(UTC)
        ids = range(generation % 7, generation % 7 + 5)
        members = tuple(Member(Backend(f"i{n}", f"b-{n}", f"10.0.0.{n}"), at) for n in ids)
        generation += 1
        after = Membership(generation, at, members)
        for event in list_events(before, after, {}):
            journal.record(event)
        print("published", generation, flush=True)  # as the publisher would, from here on
        before = after
        if generation % 3 == 0:
            journal.record(Event(Kind.AUDIT, "done", str(generation)))
            await journal.settled(5)
            print("acknowledged", generation, flush=True)
        await asyncio.sleep(0)

asyncio.run(main(Path(sys.argv[1])))
"""


def _run_and_kill(state: Path, generation: int, after_s: float) -> tuple[int, set[str]]:
    """Returns the last generation that was given out, and what was acknowledged."""
    victim = subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(state), str(generation)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert victim.stdout is not None
    lines = [victim.stdout.readline()]
    timer = threading.Timer(after_s, victim.send_signal, [signal.SIGKILL])
    timer.start()
    lines += victim.stdout
    timer.join()
    victim.stdout.close()
    assert victim.wait(scaled(10)) == -signal.SIGKILL
    words = [line.split() for line in lines if line.endswith("\n")]
    published = [int(number) for what, number in words if what == "published"]
    return published[-1], {number for what, number in words if what == "acknowledged"}


async def test_kill_9_loses_nothing_that_was_given_out(tmp_path: Path) -> None:
    generation, acknowledged = 0, set()
    chance = random.Random(7)
    for _ in range(6):
        # At least one beyond: its file may be there though its number was not printed yet.
        last, said = _run_and_kill(tmp_path, generation, chance.uniform(0.02, 0.4))
        acknowledged |= said
        keys = [key.generation for key in Snapshots(tmp_path / "memberships").all()]
        assert last in keys
        generation = max(keys)
    async with keeping(tmp_path, Limits(rows=200)) as it:
        records = await it.all()
        lists = {one.record.generation: one for one in await it.journal.lists(EVERYTHING)}
    assert generation > 50
    assert set(lists) == set(range(1, generation + 1))
    for number, one in lists.items():
        first = ((number or 0) - 1) % 7
        assert [m["name"] for m in one.members] == [f"b-{n}" for n in range(first, first + 5)]
    assert acknowledged <= {record.subject for record in records if record.kind == "audit"}
    numbers = [record.seq for record in records]
    assert numbers == sorted(set(numbers))
    with contextlib.closing(sqlite3.connect(tmp_path / "history" / "history.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_memory_is_bounded(tmp_path: Path) -> None:
    async with keeping(tmp_path, Limits(rows=1_000)) as it:
        for _ in range(100):
            it.happens(500)
            await it.journal.settled(scaled(5))
        assert len(it.journal._recent) <= 2_000
        assert it.stats.history.events <= 1_000


async def test_ends_though_the_disk_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(module, "_CLOSE_S", 0.1)
    monkeypatch.setattr(
        "lbctl.control.archive.Archive._insert", lambda *_: gate.wait(scaled(10)) and None
    )
    began = time.monotonic()
    async with keeping(tmp_path) as it:
        it.happens(1)
    assert time.monotonic() - began < scaled(2)
    gate.set()
    await asyncio.to_thread(it.journal._writer.join, scaled(5))


def test_times_are_the_wall_s(tmp_path: Path) -> None:
    async def run() -> list[Any]:
        async with keeping(tmp_path) as it:
            it.now = datetime(2026, 12, 24, 18, 0, tzinfo=UTC)
            it.happens(1)
            return list(await it.journal.records(Span(1))) or await it.all()

    (record,) = asyncio.run(run())
    assert record.at_ms == 1_798_135_200_000
