"""benchmarks/faults/engine.py, with a program in the place of docker's client."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from benchmarks.faults.engine import docker, kill_first_process, listed

from lbctl.errors import MachineError, OperationError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What docker does, as a shell script to be written."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program = tmp_path / "docker"
    program.touch(mode=0o755)
    return program


def test_what_it_prints_comes_back(client: Path) -> None:
    client.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    assert docker("stop", "one") == "stop one"


def test_a_command_that_fails_is_told_with_its_last_line(client: Path) -> None:
    client.write_text("#!/bin/sh\necho first >&2\necho no such thing >&2\nexit 1\n", "utf-8")
    with pytest.raises(OperationError, match="docker stop: no such thing"):
        docker("stop", "one")


def test_no_client_is_a_machine_that_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="docker is not installed"):
        docker("version")


def test_the_oldest_comes_first(client: Path) -> None:
    client.write_text("#!/bin/sh\necho newest\necho middle\necho oldest\n", encoding="utf-8")
    assert listed("some=label") == ["oldest", "middle", "newest"]


def test_the_first_process_is_killed_and_no_docker_command_does_it(client: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        client.write_text(
            f'#!/bin/sh\n[ "$1" = inspect ] && echo {process.pid}\n', encoding="utf-8"
        )
        kill_first_process("one")
        assert process.wait(5) == -9


def test_another_users_process_takes_root(client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    client.write_text("#!/bin/sh\necho 1234567\n", encoding="utf-8")
    with pytest.raises(MachineError, match="takes root"):
        kill_first_process("one")
