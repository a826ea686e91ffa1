"""benchmarks/faults/ours.py: what lbctl's command and the engine are asked."""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.faults import ours
from benchmarks.faults.disturbances import RELOAD, REPLACE
from benchmarks.faults.stacks import Backend

from lbctl.cli.app import lbctl
from lbctl.errors import OperationError
from tests.support.cli import Cli, Result

if TYPE_CHECKING:
    from pathlib import Path


class Command:
    """Stands where lbctl would: says what it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        self.status: dict[str, Any] = {"backends": [], "processes": []}
        self.result: Result | None = None
        self.asked: list[str] = []
        self.engine: list[str] = []
        monkeypatch.setattr(Cli, "__call__", lambda _, *words: self._answer(words))
        monkeypatch.setattr(ours, "docker", lambda *words: self.engine.append(" ".join(words)))

    def _answer(self, words: tuple[str, ...]) -> Result:
        self.asked.append(" ".join(words))
        return self.result or Result(0, json.dumps(self.status), "")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    return Command(monkeypatch, tmp_path)


def test_lbctl_lacks_what_it_has_no_command_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lbctl, "commands", {"up": None, "reload": None})
    assert ours.lacks() == {REPLACE: "this version has no command for it: rollout"}
    monkeypatch.setattr(lbctl, "commands", {"rollout": None})
    assert ours.lacks() == {RELOAD: "this version has no command for it: reload"}


def test_backends_are_those_in_rotation(command: Command) -> None:
    command.status["backends"] = [
        {"name": "p-backend-2", "ip": "10.0.0.3", "state": "up"},
        {"name": "p-backend-1", "ip": "10.0.0.2", "state": "up"},
        {"name": "p-backend-3", "ip": "10.0.0.4", "state": "draining"},
    ]
    found = ours.LbctlStack().backends()
    assert found == [Backend("p-backend-1", "10.0.0.2"), Backend("p-backend-2", "10.0.0.3")]


@pytest.mark.parametrize(
    ("lbs", "where", "container"),
    [(["p-lb"], None, "p-lb"), (["p-lb"], "", "p-lb"), (["p-lb-a", "p-lb-b"], "b", "p-lb-b")],
)
def test_a_worker_is_killed_in_its_own_container(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    lbs: list[str],
    where: str | None,
    container: str,
) -> None:
    worker = {"role": "worker", "pid": 7} | ({} if where is None else {"lb": where})
    command.status["processes"] = [{"role": "supervisor", "pid": 1}, worker]
    monkeypatch.setattr(ours, "listed", lambda *_: lbs)
    ours.LbctlStack().kill_worker()
    assert command.engine == [f"exec {container} kill -9 7"]


def test_a_command_that_fails_is_told_with_its_last_line(command: Command) -> None:
    command.result = Result(1, "", "some progress\nbackend-4 lags\n")
    with pytest.raises(OperationError, match="lbctl scale: backend-4 lags"):
        ours.LbctlStack().scale(4)
    assert command.asked == ["scale 4"]
