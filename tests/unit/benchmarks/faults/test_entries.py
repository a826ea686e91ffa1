"""benchmarks/faults/entries.py: which columns there are, and what they lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmarks.faults.disturbances import DISTURBANCES, KILL_WORKER, REPLACE, SCALE
from benchmarks.faults.entries import NAMES, entry

from lbctl.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Programs that know their version, as the peers tell it."""
    for name, said in (("traefik", "Version:      3.7.15"), ("haproxy", "HAProxy version 2.6.12")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{said}'\n", encoding="utf-8")
        program.chmod(0o755)
    return tmp_path


def test_every_column_has_a_title_and_a_version(tools: Path) -> None:
    every = [entry(name, tools) for name in NAMES]
    assert [one.name for one in every] == list(NAMES)
    assert len({one.title for one in every}) == len(NAMES)
    assert [one.version for one in every[1:]] == ["3.7.15", "3.7.15", "2.6.12", "2.6.12"]


def test_what_a_column_lacks_is_a_disturbance(tools: Path) -> None:
    names = {one.name for one in DISTURBANCES}
    for name in NAMES:
        assert set(entry(name, tools).lacks) <= names
    assert set(entry("haproxy", tools).lacks) == {SCALE, REPLACE, KILL_WORKER}
    assert set(entry("traefik", tools).lacks) == {KILL_WORKER}


def test_a_missing_program_is_told_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="make faults installs it"):
        entry("traefik", tmp_path)
