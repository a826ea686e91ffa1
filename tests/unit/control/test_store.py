from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.control.store import JsonFile

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_comes_back_as_it_went(tmp_path: Path) -> None:
    store = JsonFile(tmp_path / "wish.json")
    assert store.load() is None
    store.save({"replicas": 3})
    store.save({"replicas": 4})
    assert JsonFile(tmp_path / "wish.json").load() == {"replicas": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["wish.json"]


def test_what_cannot_be_read_is_logged_and_counts_as_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "wish.json").write_bytes(b'{"replicas": \xff')
    assert JsonFile(tmp_path / "wish.json").load() is None
    assert "wish.json cannot be read" in caplog.text


def test_what_cannot_be_written_is_logged_and_control_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    JsonFile(tmp_path / "gone" / "wish.json").save({})
    assert "wish.json cannot be written: No such file or directory" in caplog.text
