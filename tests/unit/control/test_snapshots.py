from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.control.snapshots import Key, Snapshots, key_of
from lbctl.core.history import to_ms
from lbctl.model import Membership
from tests.unit.control.past import BEGAN, member

if TYPE_CHECKING:
    from pathlib import Path

LIST = Membership(42, BEGAN.replace(microsecond=123_999), (member(1), member(2)))
NAME = "0000042-20261127T100000.123Z.json"
KEY = Key(42, to_ms(LIST.updated_at))


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path / "memberships")


def test_a_file_that_no_other_list_has(snapshots: Snapshots, tmp_path: Path) -> None:
    snapshots.write(LIST, "+b-1, +b-2")
    path = tmp_path / "memberships" / NAME
    document = json.loads(path.read_text())
    assert document == {
        "generation": 42,
        "updated_at": "2026-11-27T10:00:00.123Z",
        "reason": "+b-1, +b-2",
        "backends": [
            {"ip": "10.0.0.1", "id": "id-1", "name": "b-1", "since": "2026-11-27T10:00:00.000Z"},
            {"ip": "10.0.0.2", "id": "id-2", "name": "b-2", "since": "2026-11-27T10:00:00.000Z"},
        ],
    }
    assert path.stat().st_mode & 0o777 == 0o400
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert snapshots.all() == [KEY]
    assert snapshots.read(KEY)["backends"] == document["backends"]


def test_latest_is_the_newest(snapshots: Snapshots, tmp_path: Path) -> None:
    latest = tmp_path / "memberships" / "latest"
    for generation in (1, 2, 3):
        snapshots.write(Membership(generation, BEGAN, ()), "")
        assert json.loads(latest.read_text())["generation"] == generation
    assert latest.is_symlink()
    assert latest.readlink().parent.name == ""
    assert len(list(latest.parent.iterdir())) == 4


def test_one_that_cannot_be_written_leaves_the_others(snapshots: Snapshots, tmp_path: Path) -> None:
    snapshots.write(LIST, "")
    (tmp_path / "memberships" / "latest").unlink()
    (tmp_path / "memberships" / "latest").mkdir()
    with pytest.raises(OSError, match="latest"):
        snapshots.write(Membership(43, BEGAN, ()), "")
    assert [path for path in (tmp_path / "memberships").iterdir() if path.name[0] == "."] == []
    assert [key.generation for key in snapshots.all()] == [42, 43]


def test_removed_but_for_the_newest(snapshots: Snapshots) -> None:
    lists = [Membership(generation, BEGAN, ()) for generation in (1, 2, 3)]
    for one in lists:
        snapshots.write(one, "")
    assert snapshots.size_bytes() > 200
    keys = snapshots.all()
    snapshots.remove([*keys, Key(9, 9)])
    assert snapshots.all() == [keys[2]]


def test_where_there_are_none(snapshots: Snapshots) -> None:
    assert snapshots.all() == []
    assert snapshots.size_bytes() == 0
    snapshots.remove([KEY])
    with pytest.raises(OSError, match="No such file"):
        snapshots.read(KEY)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"reason": ""}', '{"reason": "", "backends": [1]}']
)
def test_a_damaged_one(snapshots: Snapshots, tmp_path: Path, text: str) -> None:
    (tmp_path / "memberships").mkdir()
    (tmp_path / "memberships" / NAME).write_text(text)
    with pytest.raises(ValueError, match=r"no snapshot|Expecting"):
        snapshots.read(KEY)


@pytest.mark.parametrize(
    "name", ["latest", "", "42.json", "0000042-20261399T100000.123Z.json", f".{NAME}.x", NAME + "~"]
)
def test_other_files_are_no_snapshots(name: str) -> None:
    assert key_of(name) is None


@given(st.integers(0, 10**9), st.integers(0, 4_000_000_000_000))
def test_the_name_says_which_list(generation: int, at_ms: int) -> None:
    key = Key(generation, at_ms)
    assert key_of(key.file_name) == key
