from __future__ import annotations

import errno
import gzip
import json
import stat
from typing import TYPE_CHECKING

import pytest

from lbctl.control.partitions import Partitions
from lbctl.core.history import Event, Kind, Record, record_of

if TYPE_CHECKING:
    from pathlib import Path


def records(first: int, last: int) -> list[Record]:
    made = [
        Event(Kind.DOWN, "line\nbreak \x1b", f"b-{seq}", {"n": seq})
        for seq in range(first, last + 1)
    ]
    return [record_of(event, seq, seq * 1000) for seq, event in enumerate(made, first)]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    partitions = Partitions(tmp_path)
    made = partitions.write(records(11, 20))
    assert (made.path.name, made.from_ms, made.until_ms) == (
        "history-11-20.jsonl.gz", 11_000, 20_000,
    )  # fmt: skip
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o400
    assert list(partitions.read(made)) == records(11, 20)
    assert partitions.all() == [made]


def test_before_anything_was_written_there_are_none(tmp_path: Path) -> None:
    assert Partitions(tmp_path / "not there yet").all() == []


def test_anybody_can_read_it(tmp_path: Path) -> None:
    path = Partitions(tmp_path).write(records(1, 2)).path
    head, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert json.loads(head) == {"lbctl_history": 1, "from_ms": 1000, "until_ms": 2000}
    assert json.loads(lines[1]) == {
        "seq": 2, "at_ms": 2000, "kind": "down", "subject": "b-2", "text": "line\nbreak \x1b",
        "generation": None, "data": {"n": 2},
    }  # fmt: skip


def test_all_of_them_in_order_and_no_other_file(tmp_path: Path) -> None:
    partitions = Partitions(tmp_path)
    made = [partitions.write(records(first, first + 9)) for first in (101, 1, 11)]
    for name in (
        "history-1-2.gz",
        "history-x-2.jsonl.gz",
        "history.db",
        ".history-1-2.jsonl.gz.new",
    ):
        (tmp_path / name).write_bytes(b"x")
    assert partitions.all() == [made[1], made[2], made[0]]
    made[1].path.unlink()
    assert partitions.all() == [made[2], made[0]]


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "version", "lines"])
def test_a_damaged_one_is_passed_over_and_named(tmp_path: Path, damage: str) -> None:
    partitions = Partitions(tmp_path)
    good = partitions.write(records(1, 50))
    path = partitions.write(records(51, 150)).path
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes({
        "empty": b"",
        "text": b"{}\n" * 50,
        "cut": data[: len(data) // 2],
        "flipped": data[:200] + bytes([data[200] ^ 255]) + data[201:],
        "version": gzip.compress(b'{"lbctl_history": 2}\n'),
        "lines": gzip.compress(b'{"lbctl_history": 1, "from_ms": 1, "until_ms": 2}\n{}\n'),
    }[damage])  # fmt: skip
    again = Partitions(tmp_path)
    found = [record for one in again.all() for record in again.read(one)]
    assert found[:50] == records(1, 50)
    assert [record.seq for record in found] == list(range(1, len(found) + 1))
    assert len(found) < 150
    assert again.damaged == {path.name}
    assert good.path.name in {one.path.name for one in again.all()}


@pytest.mark.parametrize("where", ["first", "later"])
def test_one_that_cannot_be_read_now_is_asked_again(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Partitions(tmp_path).write(records(1, 50))
    partitions = Partitions(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    if where == "later":
        partitions.all()
    with monkeypatch.context() as patched:
        patched.setattr("gzip.open", full)
        with pytest.raises(OSError, match="Too many open files"):
            [list(partitions.read(one)) for one in partitions.all()]
    assert partitions.damaged == set()
    assert partitions.all() == [made]
    assert list(partitions.read(made)) == records(1, 50)


def test_a_disk_that_cannot_read_it_any_more_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Partitions(tmp_path).write(records(1, 50))
    partitions = Partitions(tmp_path)

    def bad(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("gzip.open", bad)
    assert partitions.all() == []
    assert partitions.damaged == {made.path.name}


def test_one_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        Partitions(tmp_path).write(records(1, 2))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    partitions = Partitions(tmp_path)
    kept = partitions.write(records(1, 2))
    (tmp_path / ".history-3-4.jsonl.gz.new").write_bytes(b"half")
    partitions.clear_unfinished()
    assert list(tmp_path.iterdir()) == [kept.path]
