"""What is kept, through kills between any two steps, damage and a disk that is full."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sqlite3
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.control import archive as module
from lbctl.control import reader
from lbctl.control.aging import Limits
from lbctl.control.database import row_of
from lbctl.control.partitions import Partitions
from lbctl.core.history import Event, Kind, Span, folded, to_ms
from lbctl.model import Membership
from tests.unit.control.past import BEGAN, EVERYTHING, Past, member

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from lbctl.core.history import Listed, Record


class Killed(BaseException):
    """The process is gone at this point: no handler of the program may run any further."""


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(tmp_path)


def test_everything_is_there_again(past: Past) -> None:
    past.lists(1, 2)
    past.events(3)
    past.lists(2, 3)
    past.next_controller()
    past.lists(2, 3, 4)
    assert past.kept() == list(range(1, 12))
    assert past.rotations() == {1: ["b-1", "b-2"], 2: ["b-2", "b-3"], 3: ["b-2", "b-3", "b-4"]}
    assert past.archive.problem == ""
    assert past.archive.lost == past.archive.waiting == 0


def test_nobody_else_may_read_it(past: Past) -> None:
    past.events(1)
    assert past.directory.stat().st_mode & 0o777 == 0o700


def test_names_are_data_and_no_statement(past: Past) -> None:
    evil = "x'); DROP TABLE events; --\n\x00\ud800"
    event = Event(Kind.DOWN, evil, evil, {evil: evil})
    past.archive.append([(event, to_ms(BEGAN))])
    past.next_controller()
    past.events(1)
    first, second = past.reader.records(EVERYTHING)
    assert first.text == first.subject == evil.replace("\ud800", "?")
    assert json.loads(first.data) == {evil: evil}
    assert second.kind == "down"


def test_a_long_row_of_lists_is_kept_by_its_changes(past: Past) -> None:
    many = list(range(100))
    for number in range(70):
        past.lists(*many, 100 + number)
    records = past.reader.records(Span(1000, oldest=True, lists=True))
    assert [record.whole for record in records].count(True) == 3
    assert sum(len(record.data) for record in records) < 150_000  # whole: 600,000
    lists = past.rotations()
    assert len(lists) == 70
    for generation, names in lists.items():
        assert names == [f"b-{number}" for number in (*many, 99 + generation)]


# Questions


@pytest.fixture
def long_past(tmp_path: Path) -> Past:
    """400 records, the first 300 of them in partitions."""
    past = Past(tmp_path, Limits(rows=100))
    numbers = {0}
    for step in range(100):
        numbers ^= {step % 7}
        past.lists(*numbers)
        past.events(1)
        past.archive.tidy()
    return past


def test_partitions_and_database_are_one(long_past: Past) -> None:
    past = long_past
    everything = past.kept()
    assert everything == list(range(1, past.archive.last + 1))
    assert len(past.files("*.gz")) > 5
    assert past.archive.rows <= 100
    partitions = Partitions(past.directory)
    in_files = [record.seq for one in partitions.all() for record in partitions.read(one)]
    assert in_files == everything[: len(in_files)]
    assert len(in_files) + past.archive.rows == len(everything)
    lists = past.rotations()
    assert list(lists) == list(range(1, 101))
    for generation in (1, 2, 37, 99, 100):
        numbers = {0}
        for step in range(generation):
            numbers ^= {step % 7}
        assert lists[generation] == [f"b-{number}" for number in sorted(numbers)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_span_is_found(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    past = _shared(tmp_path_factory)
    records = past.reader.records(EVERYTHING)
    number = st.none() | st.integers(0, len(records) + 2)
    time = st.none() | st.integers(records[0].at_ms - 1, records[-1].at_ms + 1)
    span = Span(
        data.draw(st.integers(1, 50)), data.draw(number), data.draw(number), data.draw(time),
        data.draw(time), oldest=data.draw(st.booleans()), lists=data.draw(st.booleans()),
    )  # fmt: skip
    expected = [record for record in records if span.has(record)]
    expected = expected[: span.limit] if span.oldest else expected[-span.limit :]
    assert past.reader.records(span) == expected
    lists = [record.seq for record in expected if record.generation is not None]
    if span.lists:
        assert [one.record.seq for one in past.reader.lists(span)] == lists


_made: list[Past] = []


def _shared(factory: pytest.TempPathFactory) -> Past:
    if not _made:
        past = Past(factory.mktemp("past"), Limits(rows=100))
        numbers = {0}
        for step in range(60):
            numbers ^= {step % 7}
            past.lists(*numbers)
            past.events(1)
            past.archive.tidy()
        _made.append(past)
    return _made[0]


def test_who_was_in_rotation_then(long_past: Past) -> None:
    lists = long_past.reader.lists(EVERYTHING)
    for one in lists[::9]:
        found = long_past.reader.at(one.record.at_ms)
        assert found is not None
        assert found.members == one.members
        before = long_past.reader.at(one.record.at_ms - 1)
        expected = (one.record.generation or 0) - 1
        assert (before.record.generation if before is not None else 0) == expected
    assert long_past.reader.at(to_ms(BEGAN) - 1) is None
    newest = long_past.reader.at(to_ms(long_past.now) + 10**9)
    assert newest is not None
    assert newest.record.generation == 100


def test_where_nothing_was_kept_yet(tmp_path: Path) -> None:
    past = Past(tmp_path)
    past.directory.mkdir()
    assert past.kept() == []
    assert past.reader.lists(EVERYTHING) == []
    assert past.reader.at(to_ms(BEGAN)) is None


def test_an_answer_has_an_end(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MEMBERS_LIMIT", 10)
    for number in range(1, 9):
        past.lists(*range(number))
    assert list(past.rotations()) == [1, 2, 3, 4]
    assert list(past.rotations(oldest=False)) == [8]  # one comes in any case
    assert list(past.rotations(oldest=False, before=past.archive.last - 5)) == [4, 5]


def test_only_the_lists_of_an_answer_are_made_whole(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 101):
        past.lists(*range(number % 7 + 20))
    made: list[int] = []

    def counted(records: Iterable[Record]) -> Iterator[Listed]:
        for one in folded(records):
            made.append(one.record.seq)
            yield one

    monkeypatch.setattr(reader, "MEMBERS_LIMIT", 100)
    monkeypatch.setattr(reader, "folded", counted)
    assert list(past.rotations(oldest=False)) == [97, 98, 99, 100]
    assert len(made) <= 32 + 4  # from the whole one before them
    made.clear()
    assert list(past.rotations()) == [1, 2, 3, 4]
    assert len(made) == 4


def test_a_clock_that_goes_back(past: Past) -> None:
    past.lists(1)
    past.pass_time(hours=-1)
    past.lists(2)
    assert past.rotations() == {1: ["b-1"], 2: ["b-2"]}
    past.next_controller()
    past.events(1)
    assert past.archive.problem == ""


def test_a_clock_before_the_epoch(past: Past) -> None:
    past.archive.append([(Event(Kind.DOWN), -5)])
    assert past.reader.records(EVERYTHING)[0].at_ms == 0


def test_generations_that_begin_again(past: Past) -> None:
    """As where membership.json was lost."""
    past.lists(1)
    past.lists(1, 2)
    past.membership = Membership(0, past.now, ())
    past.lists(5)
    past.lists(5, 6)
    past.next_controller()
    past.events(1)
    lists = past.reader.lists(EVERYTHING)
    assert [(one.record.generation, len(one.members)) for one in lists] == [
        (1, 1), (2, 2), (1, 1), (2, 2),
    ]  # fmt: skip


# What is old


def test_days_pass(tmp_path: Path) -> None:
    past = Past(tmp_path, Limits(days=2))
    past.lists(1)
    past.events(5)
    past.pass_time(days=2.5)
    past.events(5)
    past.archive.tidy()
    assert past.files("*.gz") == []  # not each record by itself
    past.pass_time(days=1)
    past.archive.tidy()
    assert past.files("*.gz") == ["history-1-7.jsonl.gz"]
    assert past.kept() == list(range(1, 13))


def test_what_is_large(tmp_path: Path) -> None:
    past = Past(tmp_path, Limits(size_bytes=200_000))
    for number in range(40):
        past.lists(*range(60), 60 + number)
    assert past.snapshots.size_bytes() > 200_000
    past.archive.tidy()
    assert past.snapshots.size_bytes() < 200_000
    assert len(past.files("*.gz")) >= 1
    assert len(past.rotations()) == 40


def test_files_of_lists_go_with_them_but_for_the_newest(long_past: Past) -> None:
    past = long_past
    stored = {record.generation for record in past.reader.records(
        Span(10**6, after=past.archive.last - past.archive.rows, oldest=True, lists=True)
    )}  # fmt: skip
    assert {key.generation for key in past.snapshots.all()} == stored
    past.limits = Limits(rows=100, days=0.01)
    past.next_controller()
    past.pass_time(days=3)
    past.archive.flush()
    past.archive.tidy()
    assert past.archive.rows == 0
    assert [key.generation for key in past.snapshots.all()] == [100]
    past.next_controller()
    past.events(1)
    assert list(past.rotations()) == list(range(1, 101))  # and it is not taken for a new one
    past.lists(1)
    assert past.rotations()[101] == ["b-1"]


# Kills


STEPS = (
    "lbctl.control.partitions._write", "lbctl.control.partitions.sync_directory",
    "lbctl.control.snapshots.Snapshots.remove", "lbctl.control.aging.transaction",
)  # fmt: skip


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_in_the_middle_of_a_move(
    tmp_path: Path, step: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = Past(tmp_path, Limits(rows=100))
    for number in range(60):
        past.lists(number, number + 1)
    everything, lists = past.kept(), past.rotations()
    assert past.archive.rows > 150
    with monkeypatch.context() as patched:
        _kill_at(patched, step, after)
        with pytest.raises(Killed):
            past.archive.tidy()
    past.next_controller()
    past.archive.flush()
    assert past.kept() == everything
    assert past.rotations() == lists
    assert past.files(".*") == []
    past.archive.tidy()
    assert past.archive.rows <= 100
    assert past.kept() == everything
    assert past.rotations() == lists
    assert past.archive.rows + sum(
        one.last - one.first + 1 for one in Partitions(past.directory).all()
    ) == len(everything)


def _kill_at(patched: pytest.MonkeyPatch, step: str, after: bool) -> None:
    owner, _, name = step.rpartition(".")
    real = _resolve(step)

    def deadly(*arguments: Any, **options: Any) -> Any:
        if after and name == "transaction":
            return _killed_before_commit(real(*arguments, **options))
        if after:
            real(*arguments, **options)
        raise Killed

    patched.setattr(f"{owner}.{name}", deadly)


@contextlib.contextmanager
def _killed_before_commit(transaction: Any) -> Iterator[None]:
    with transaction:
        yield
        raise Killed


def _resolve(path: str) -> Any:
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        with contextlib.suppress(ImportError):
            found: Any = importlib.import_module(".".join(parts[:end]))
            for name in parts[end:]:
                found = getattr(found, name)
            return found
    raise AssertionError(path)


def test_lists_that_were_given_out_and_not_stored(past: Past) -> None:
    past.lists(1)
    past.lists(1, 2)
    for numbers in ((1, 2, 3), (2, 3), (3, 4)):
        past.change(*numbers)  # and killed before the archive heard of it
    past.next_controller()
    past.lists(4)
    assert past.rotations() == {
        1: ["b-1"], 2: ["b-1", "b-2"], 3: ["b-1", "b-2", "b-3"], 4: ["b-2", "b-3"],
        5: ["b-3", "b-4"], 6: ["b-4"],
    }  # fmt: skip
    adopted = past.reader.lists(Span(10, oldest=True))[3].record
    assert adopted.text == "because"
    assert [one["name"] for one in json.loads(adopted.data)["left"]] == ["b-1"]
    assert past.kept() == list(range(1, past.archive.last + 1))


def test_a_list_whose_file_is_damaged_is_passed_over(past: Past) -> None:
    past.lists(1)
    past.change(1, 2)
    past.change(1, 2, 3)
    path = past.state / "memberships" / past.snapshots.all()[1].file_name
    path.chmod(0o600)
    path.write_text("{")
    past.next_controller()
    past.events(1)
    assert list(past.rotations()) == [1, 3]


@pytest.mark.parametrize("data", ["{", "{}"])
def test_a_list_is_taken_in_though_the_one_before_makes_no_sense(past: Past, data: str) -> None:
    past.lists(1)
    past.archive.close()
    with contextlib.closing(sqlite3.connect(past.database)) as db, db:
        db.execute("UPDATE events SET data = ? WHERE generation = 1", (data,))
    past.change(1, 2)
    past.next_controller()
    past.events(1)
    (taken,) = past.reader.records(Span(1, after=2, oldest=True))
    assert [one["name"] for one in json.loads(taken.data)["members"]] == ["b-1", "b-2"]


def test_a_process_that_is_killed_in_a_transaction(past: Past) -> None:
    past.events(3)
    past.archive.close()
    code = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "db.execute('DELETE FROM events')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(["python3", "-c", code, str(past.database)], check=False)
    assert done.returncode == -9
    past.next_controller()
    past.events(1)
    assert past.kept() == [1, 2, 3, 4]


# Damage


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def beginning(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * 100)


def middle(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(4096 * 2))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("damage", [garbage, beginning, middle, cut, newer])
def test_a_damaged_file_is_put_aside(past: Past, damage: Callable[[Path], None]) -> None:
    for number in range(40):
        past.lists(number, number + 1)
        past.events(20)
    past.archive.close()
    damage(past.database)
    past.pass_time(hours=1)
    past.next_controller()
    past.events(2)
    past.archive.append([])
    (aside,) = past.files("history.db.damaged-*Z")
    assert past.archive.problem == ""
    # Every list is there, whatever the file had left of them.
    lists = past.rotations()
    assert set(lists) == set(range(1, 41))
    for generation, names in lists.items():
        assert names == [f"b-{generation - 1}", f"b-{generation}"]
    told = [record for record in past.reader.records(EVERYTHING) if record.kind == "history"]
    assert len(told) == 1
    assert aside in told[0].text
    past.lists(7)
    assert past.rotations()[41] == ["b-7"]
    past.next_controller()
    past.events(1)
    assert past.rotations()[41] == ["b-7"]


def test_damage_that_comes_while_it_runs(past: Past) -> None:
    past.lists(1)
    past.archive.close()
    past.next_controller()
    past.events(1)
    for name in past.files("history.db*"):
        garbage(past.directory / name)
    past.seconds += 10
    past.lists(1, 2)
    past.seconds += 10
    past.lists(1, 2, 3)
    past.archive.flush()
    assert past.archive.problem == ""
    assert past.rotations() == {1: ["b-1"], 2: ["b-1", "b-2"], 3: ["b-1", "b-2", "b-3"]}


NONSENSE = (
    "DELETE FROM events WHERE seq = 1",
    "UPDATE events SET data = '{' WHERE seq = 1",
    "UPDATE events SET data = '{}' WHERE seq = 1",
    "UPDATE events SET data = '{\"members\": 5}' WHERE seq = 1",
)
"""What SQLite has nothing against: the list that others build on is no list, or gone."""


def _spoilt(past: Past, how: str) -> None:
    with contextlib.closing(sqlite3.connect(past.database)) as db, db:
        db.execute(how)


@pytest.mark.parametrize("how", NONSENSE)
def test_a_list_that_makes_no_sense_is_damage_to_a_move_that_was_killed(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = Past(tmp_path, Limits(rows=100))
    for number in range(60):
        past.lists(number, number + 1)
    everything, lists = past.kept(), past.rotations()
    with monkeypatch.context() as patched:
        _kill_at(patched, "lbctl.control.snapshots.Snapshots.remove", after=False)
        with pytest.raises(Killed):
            past.archive.tidy()
    _spoilt(past, how)
    past.next_controller()
    past.events(1)
    assert past.archive.problem == ""
    assert len(past.files("history.db.damaged-*Z")) == 1
    assert past.kept()[: len(everything)] == everything
    assert past.rotations() == lists


@pytest.mark.parametrize("how", NONSENSE)
def test_a_list_that_makes_no_sense_is_damage_to_what_moves_while_it_runs(
    tmp_path: Path, how: str
) -> None:
    past = Past(tmp_path, Limits(rows=100))
    for number in range(60):
        past.lists(number, number + 1)
    lists = past.rotations()
    _spoilt(past, how)
    past.archive.tidy()
    assert past.archive.problem == ""
    assert len(past.files("history.db.damaged-*Z")) == 1
    past.events(1)
    past.archive.tidy()
    assert past.archive.rows <= 100
    assert past.rotations() == lists
    assert len(past.files("history.db.damaged-*Z")) == 1
    for one in Partitions(past.directory).all():
        assert len(list(Partitions(past.directory).read(one))) > 0
    assert past.kept() == list(range(past.kept()[0], past.archive.last + 1))


REPAIR_STEPS = (
    "lbctl.control.repair.row_of", "lbctl.control.repair.transaction", "os.fsync",
    "lbctl.control.repair.sync_directory", "lbctl.control.repair.finish",
    "lbctl.control.archive.Archive._check", "lbctl.control.archive.Archive._adopt",
)  # fmt: skip


def _damaged(past: Past) -> list[int]:
    """Some of it can be read yet. Returns what was kept."""
    for number in range(40):
        past.lists(number, number + 1)
        past.events(20)
    past.archive.close()
    kept = past.kept()
    newer(past.database)
    past.pass_time(hours=1)
    past.next_controller()
    return kept


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", REPAIR_STEPS)
def test_a_kill_while_a_damaged_file_is_replaced(
    past: Past, step: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = _damaged(past)
    with monkeypatch.context() as patched:
        if step.endswith("_check"):  # the first one finds the damage
            patched.setattr("lbctl.control.repair.finish", _second(Killed))
        else:
            _kill_at(patched, step, after)
        with pytest.raises(Killed):
            past.archive.flush()
    past.pass_time(seconds=5)
    past.next_controller()
    past.events(1)
    assert past.archive.problem == ""
    assert past.kept()[: len(kept)] == kept
    told = 0 if step.endswith("_adopt") else 1  # of a change that was complete the log tells
    assert past.archive.last == len(past.kept()) == len(kept) + 1 + told
    assert list(past.rotations()) == list(range(1, 41))
    assert len(past.files("history.db.damaged-*Z")) == 1
    assert past.files("*.repaired-*") == past.files("*.new*") == []


def _second(error: type[BaseException]) -> Callable[[Path], str]:
    """In place of `finish`: fails the second time, half way."""
    asked: list[Path] = []

    def finish(directory: Path) -> str:
        asked.append(directory)
        if len(asked) == 2:
            (ready,) = directory.glob("*.repaired-*")
            aside = ready.name.replace("repaired", "damaged")
            (directory / "history.db").rename(directory / aside)
            raise error
        return ""

    return finish


def test_a_damaged_file_stays_until_there_is_room_for_its_successor(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = _damaged(past)
    count = 0

    def full(record: Any) -> Any:
        nonlocal count
        count += 1
        if count > 400:
            raise OSError(28, "No space left on device")
        return row_of(record)

    with monkeypatch.context() as patched:
        patched.setattr("lbctl.control.repair.row_of", full)
        past.events(1)
        assert count == 401
        assert "cannot be replaced: [Errno 28]" in past.archive.problem
        past.events(5)
        assert count == 401  # it is not tried for every event
        past.seconds += 15
        past.lists(7)
    assert [past.files(f"*.{name}*") for name in ("damaged", "repaired", "new")] == [[], [], []]
    assert past.archive.waiting == 10
    past.pass_time(seconds=15)
    past.events(1)
    assert past.archive.problem == ""
    assert past.kept()[: len(kept)] == kept
    assert past.archive.last == len(past.kept())
    assert list(past.rotations()) == list(range(1, 42))
    told = [one.text for one in past.reader.records(EVERYTHING) if one.kind == "history"]
    assert [text.partition(" ")[0] for text in told] == ["history.db", "it"]
    assert told[0].endswith(f"; {len(kept)} of its records are saved")


def test_what_a_killed_repair_left_half_written_is_of_no_use(past: Past) -> None:
    kept = _damaged(past)
    half = [past.directory / f"history.db.new{suffix}" for suffix in ("", "-journal")]
    for path in half:
        path.write_bytes(os.urandom(5_000))
    past.events(1)
    assert past.kept()[: len(kept)] == kept
    assert past.files("*.new*") == []
    half[0].write_bytes(b"x")
    past.next_controller()
    past.archive.flush()
    assert past.files("*.new*") == []


def test_what_cannot_be_opened_now_is_not_given_up(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = _damaged(past)

    def few_files(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("lbctl.control.database.connect", few_files)
        past.events(1)
    assert "cannot be replaced: unable to open" in past.archive.problem
    past.seconds += 15
    past.events(1)
    assert past.kept()[: len(kept)] == kept


def test_damage_that_a_reader_met_is_looked_for(past: Past) -> None:
    for number in range(40):
        past.lists(number, number + 1)
        past.events(20)
    past.archive.close()
    past.next_controller()
    past.archive.flush()
    middle(past.database)
    past.archive.append([])
    assert past.files("*.damaged-*") == []  # a writer need not meet it
    assert past.archive.suspect()
    assert not past.archive.suspect()  # not for every question
    past.archive.append([])
    assert past.archive.problem == ""
    assert len(past.files("*.damaged-*Z")) == 1
    assert set(past.rotations()) == set(range(1, 41))
    assert past.reader.records(Span(1))[0].kind == "history"


def test_a_suspicion_without_a_cause_changes_nothing(past: Past) -> None:
    past.lists(1)
    past.change(1, 2)  # its file is there, and it is told soon
    assert past.archive.suspect()
    past.archive.append([])
    assert past.files("*.damaged-*") == []
    assert past.kept() == [1, 2]
    past.seconds += 60
    assert past.archive.suspect()


# The list that was saved


def test_a_saved_list_that_nobody_told_of(past: Past) -> None:
    past.lists(1)
    past.archive.close()
    saved = Membership(2, past.now + timedelta(seconds=1), (member(1), member(2)))
    past.next_controller()
    assert not past.archive.restored(saved, "as it was saved")  # it has no file
    past.membership = saved
    past.events(1)
    past.lists(2)
    assert past.rotations() == {1: ["b-1"], 2: ["b-1", "b-2"], 3: ["b-2"]}
    told = past.reader.lists(EVERYTHING)[1].record
    assert told.text == "as it was saved"
    assert told.at_ms == to_ms(saved.updated_at)
    assert [one["name"] for one in json.loads(told.data)["joined"]] == ["b-2"]
    assert past.kept() == list(range(1, past.archive.last + 1))


@pytest.mark.parametrize("moved", [False, True])
def test_a_saved_list_that_was_told_of_is_not_told_again(tmp_path: Path, moved: bool) -> None:
    past = Past(tmp_path, Limits(days=0.01) if moved else Limits())
    past.lists(1)
    past.lists(1, 2)
    if moved:
        past.pass_time(days=3)
        past.archive.tidy()
        assert past.archive.rows == 0
    past.next_controller()
    assert past.archive.restored(past.membership, "as it was saved")
    past.events(1)
    assert list(past.rotations()) == [1, 2]
    assert past.archive.last == len(past.kept())


# A disk that is full, or not there


def fill(past: Past, room: int) -> None:
    """From now on SQLite has so many pages more; it says the same as on a full disk."""
    db = past.archive._db
    assert db is not None
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + room}")


def test_a_full_disk_loses_nothing_that_memory_holds(past: Past) -> None:
    past.lists(1)
    fill(past, 2)
    numbers = [record.seq for _ in range(30) for record in past.events(20)]
    assert numbers == list(range(3, 603))  # who listens is told all the same
    past.lists(1, 2)
    assert "full" in past.archive.problem
    assert past.archive.waiting > 300
    assert past.archive.lost == 0
    fill(past, 10_000)
    past.seconds += 2
    past.events(1)
    assert (past.archive.problem, past.archive.waiting) == ("", 0)
    past.archive.append([])
    assert past.kept() == list(range(1, past.archive.last + 1))
    assert past.rotations() == {1: ["b-1"], 2: ["b-1", "b-2"]}
    told = past.reader.records(Span(2))[0]
    assert (told.kind, told.text) == ("history", "it is written again")


def test_what_is_lost_is_counted_and_the_lists_behind_it_are_whole(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_LIMIT", 100)
    past.lists(1)
    fill(past, 0)
    past.events(300)
    past.lists(1, 2)
    lost = past.archive.lost
    assert 150 < lost < 302
    fill(past, 10_000)
    past.seconds += 2
    past.lists(1, 2, 3)
    past.lists(1, 2, 3, 4)
    assert past.archive.lost == lost
    kept = past.kept()
    assert len(kept) == past.archive.last - lost
    # Lists do not count, or those that come after would build on what is not there.
    assert list(past.rotations().items()) == [
        (1, ["b-1"]), (2, ["b-1", "b-2"]), (3, ["b-1", "b-2", "b-3"]),
        (4, ["b-1", "b-2", "b-3", "b-4"]),
    ]  # fmt: skip
    told = next(one for one in past.reader.records(EVERYTHING) if one.kind == "history")
    assert told.text == f"it is written again; {lost} events were lost"
    past.next_controller()
    past.events(1)
    assert list(past.rotations()) == [1, 2, 3, 4]


def test_lists_for_which_there_is_no_room_come_from_their_files_in_order(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES", 10_000)
    past.lists(1)
    fill(past, 0)
    for _ in range(20):
        past.archive.append([(Event(Kind.DOWN, data={"x": "x" * 1_000}), 1)])
    past.lists(1, 2)
    past.lists(1, 2, 3)
    lost = past.archive.lost
    fill(past, 10_000)
    past.seconds += 2
    past.lists(2, 3)
    rotations = {1: ["b-1"], 2: ["b-1", "b-2"], 3: ["b-1", "b-2", "b-3"], 4: ["b-2", "b-3"]}
    assert list(past.rotations().items()) == list(rotations.items())
    lists = [one.record for one in past.reader.lists(EVERYTHING)]
    assert [[one["name"] for one in json.loads(one.data)["joined"]] for one in lists] == [
        ["b-1"], ["b-2"], ["b-3"], [],
    ]  # fmt: skip
    assert len(past.kept()) == past.archive.last - lost
    assert past.archive.lost == lost
    past.next_controller()
    past.events(1)
    assert list(past.rotations()) == [1, 2, 3, 4]


def test_lists_do_not_count_even_where_they_have_no_files(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_LIMIT", 100)
    past.events(1)
    fill(past, 0)
    past.events(300)
    assert past.archive.waiting == 100
    past.lists(1)
    (past.state / "memberships" / past.snapshots.all()[-1].file_name).unlink()
    fill(past, 10_000)
    past.seconds += 2
    past.events(1)
    assert past.rotations() == {1: ["b-1"]}


def test_a_list_for_which_there_was_no_room_and_whose_file_is_gone_is_lost(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES", 10_000)
    past.lists(1)
    fill(past, 0)
    for _ in range(20):
        past.archive.append([(Event(Kind.DOWN, data={"x": "x" * 1_000}), 1)])
    past.lists(1, 2)
    lost = past.archive.lost
    (past.state / "memberships" / past.snapshots.all()[-1].file_name).unlink()
    fill(past, 10_000)
    past.seconds += 2
    past.lists(2, 3)
    assert past.archive.lost == lost + 1
    assert past.rotations() == {1: ["b-1"], 3: ["b-2", "b-3"]}
    assert past.archive.problem == ""


def test_what_waits_keeps_its_order_where_a_file_was_out_of_reach(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers were given before anybody knew what was there."""
    monkeypatch.setattr(module, "WAITING_BYTES", 1_000)
    past.lists(1)
    past.archive.close()
    elsewhere = past.state / "elsewhere"
    past.directory.rename(elsewhere)
    past.directory.write_text("a file")
    past.next_controller()
    past.archive.append([(Event(Kind.DOWN, data={"x": "x" * 1_000}), 1)])
    past.lists(1, 2)
    past.directory.unlink()
    elsewhere.rename(past.directory)
    past.seconds += 2
    past.lists(2)
    rotations = [(1, ["b-1"]), (2, ["b-1", "b-2"]), (3, ["b-2"])]
    assert list(past.rotations().items()) == rotations
    assert past.kept() == sorted(set(past.kept()))
    assert len(past.kept()) == past.archive.last - past.archive.lost


def test_what_waits_has_a_weight(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES", 10_000)
    past.events(1)
    fill(past, 0)
    for _ in range(100):
        past.archive.append([(Event(Kind.DOWN, data={"x": "x" * 1_000}), 1)])
    assert past.archive.waiting + past.archive.lost >= 90
    assert past.archive.waiting <= 12


def test_who_listens_is_not_given_all_members(past: Past) -> None:
    (told, *_) = past.lists(*range(100))
    assert "members" not in json.loads(told.data)
    assert past.reader.records(Span(1, after=0, oldest=True))[0].whole


def test_while_it_fails_it_is_tried_once_a_second(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    past.events(1)
    fill(past, 0)
    past.events(300)
    tries: list[int] = []

    def full(records: list[Any]) -> None:
        tries.append(len(records))
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(past.archive, "_insert", full)
    past.seconds += 0.9
    past.archive.append([(Event(Kind.UP), 1)])
    assert tries == []
    past.seconds += 0.2
    past.archive.append([(Event(Kind.UP), 1)])
    assert len(tries) == 1


def test_a_directory_that_cannot_be_used(past: Past) -> None:
    past.directory.write_text("a file")
    assert [record.seq for record in past.events(2)] == [1, 2]
    assert past.archive.problem
    past.directory.unlink()
    past.seconds += 2
    past.events(1)
    assert past.archive.problem == ""
    assert past.kept()[:3] == [1, 2, 3]


def test_numbers_go_on_where_a_file_was_out_of_reach(past: Past) -> None:
    past.events(10)
    past.archive.close()
    elsewhere = past.state / "elsewhere"
    past.directory.rename(elsewhere)
    past.directory.write_text("a file")
    past.next_controller()
    past.events(3)
    past.directory.unlink()
    elsewhere.rename(past.directory)
    past.seconds += 2
    assert past.events(1)[0].seq == 14
    assert past.kept()[:14] == list(range(1, 15))


def test_partitions_need_room_too(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    past.limits = Limits(rows=100)
    past.next_controller()
    past.events(150)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("lbctl.control.partitions._write", full)
        past.archive.tidy()
    past.events(1)
    assert (past.archive.rows, past.archive.problem) == (151, "")
    past.archive.tidy()
    assert past.archive.rows == 151  # not tried again at once
    past.seconds += 61
    past.archive.tidy()
    assert past.archive.rows <= 100
    assert past.kept() == list(range(1, 152))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_real_disk_that_is_full(past: Past) -> None:
    past.directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", str(past.directory)]
    subprocess.run(mount, check=True)
    try:
        past.lists(1)
        while not past.archive.problem:
            past.events(200)
        waiting = past.events(50)
        past.lists(1, 2)
        assert past.reader.at(to_ms(past.now)) is not None  # what is there can be read
        subprocess.run(["mount", "-o", "remount,size=16m", str(past.directory)], check=True)
        past.seconds += 2
        past.events(1)
        assert (past.archive.problem, past.archive.lost) == ("", 0)
        assert {record.seq for record in waiting} < set(past.kept())
        assert past.kept() == list(range(1, past.archive.last + 1))
        assert past.rotations() == {1: ["b-1"], 2: ["b-1", "b-2"]}
    finally:
        past.archive.close()
        subprocess.run(["umount", str(past.directory)], check=True)
