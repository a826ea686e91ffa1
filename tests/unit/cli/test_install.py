"""`lbctl up --install`: only what is missing, only where it may."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from lbctl.cli import install
from lbctl.cli.screen import Steps
from lbctl.errors import ImageError
from tests.support.deadlines import scaled
from tests.unit.cli.machine import NO_ENGINE

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

    from tests.unit.cli.machine import Machine

NO_NGINX = "no nginx is installed\ninstall one: apt-get install nginx-light"


@pytest.fixture
def commands(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """What would be run as root; it gives the machine its nginx."""
    ran: list[list[str]] = []
    policy = tmp_path / "policy-rc.d"

    def runs(command: list[str], *_: object) -> bool:
        if command[0] == "apt-get":
            assert policy.stat().st_mode & 0o111  # packages start no service meanwhile
        ran.append(command)
        machine.nginx = ""
        return True

    monkeypatch.setattr(install, "may_install", lambda: True)
    monkeypatch.setattr(install, "_POLICY", policy)
    monkeypatch.setattr(install, "_runs", runs)
    machine.nginx = NO_NGINX
    return ran


def test_nothing_is_installed_where_an_engine_serves(
    machine: Machine, commands: list[list[str]]
) -> None:
    assert machine.type("up", "--install").status == 0
    assert commands == []


def test_nginx_is_installed_where_no_engine_answers(
    machine: Machine, commands: list[list[str]], tmp_path: Path
) -> None:
    machine.engine_problem = NO_ENGINE
    typed = machine.type("up", "--install")
    assert typed.status == 0, typed
    assert "installing nginx-light" in typed.err
    assert commands[0][0] == "apt-get"
    assert "install" in commands[0]
    assert not (tmp_path / "policy-rc.d").exists()
    assert machine.stacks["local"].there


def test_nginx_is_installed_where_images_cannot_be_had(
    machine: Machine, commands: list[list[str]]
) -> None:
    machine.stacks["docker"].error = ImageError("image alpine:3.10 cannot be pulled: no route")
    typed = machine.type("up", "--install")
    assert typed.status == 0, typed
    assert len(commands) == 1 or commands[1][0] == "systemctl"
    assert machine.stacks["local"].there


@pytest.mark.parametrize("flags", [(), ("--install", "--runtime", "docker")])
def test_nothing_is_installed_unasked(
    machine: Machine, commands: list[list[str]], flags: tuple[str, ...]
) -> None:
    machine.engine_problem = NO_ENGINE
    assert machine.type("up", *flags).status == 3
    assert commands == []


def test_the_command_is_told_where_installing_is_not_ours(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.engine_problem, machine.nginx = NO_ENGINE, NO_NGINX
    monkeypatch.setattr(install, "may_install", lambda: False)
    typed = machine.type("up", "--install")
    assert typed.status == 3
    assert typed.err.splitlines()[-1] == "install one: apt-get install nginx-light"


def test_an_installation_that_fails_says_what_to_try(
    machine: Machine, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.engine_problem = NO_ENGINE
    policy = tmp_path / "policy-rc.d"
    policy.write_text("somebody else's", encoding="utf-8")
    monkeypatch.setattr(install, "_runs", lambda *_: False)
    typed = machine.type("up", "--install")
    assert typed.status == 1
    assert typed.err.splitlines()[-1] == "apt-get update && apt-get install nginx-light"
    assert policy.read_text(encoding="utf-8") == "somebody else's"
    assert commands == []


def test_apt_get_tells_how_far_it_is(
    machine: Machine, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[float, float, str]] = []
    heard = threading.Event()

    def part(_: Steps, done: float, total: float, text: str) -> None:
        shown.append((done, total, text))
        if done > 40:
            heard.set()

    def runs(command: list[str], errors: TextIO | None = None, *descriptors: int) -> bool:
        commands.append(command)
        machine.nginx = ""
        for tells in descriptors:
            assert f"APT::Status-Fd={tells}" in command
            os.write(tells, b"dlstatus:1:20.5000:Retrieving file 1 of 5\nnonsense\npmstatus:")
            os.write(tells, b"libc6:amd64:40.0000:Unpacking libc6 (amd64)\n")
            os.write(tells, b"pmstatus:nginx:80:Installed nginx\n")
            assert heard.wait(scaled(5))
        if errors is not None:
            errors.write("W: \x1b[31mno such mirror\n")
        return len(commands) > 1

    monkeypatch.setattr(install, "_runs", runs)
    monkeypatch.setattr(Steps, "part", part)
    machine.engine_problem = NO_ENGINE
    typed = machine.type("up", "--install")
    assert typed.status == 0
    assert "W: ?[31mno such mirror" in typed.err.splitlines()
    assert typed.err.count("no such mirror") == 1  # of the command that failed
    assert shown[:3] == [
        (20.5, 100, "Retrieving file 1 of 5"),
        (40, 100, "Unpacking libc6 (amd64)"),
        (80, 100, "Installed nginx"),
    ]
