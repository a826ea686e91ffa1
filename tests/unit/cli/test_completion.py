"""Completion: the script in the shells themselves, and the names that lbctl gives them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from click.shell_completion import BashComplete

from lbctl.cli import completion
from lbctl.cli.app import lbctl
from lbctl.cli.screen import Screen
from lbctl.cli.session import Session
from lbctl.model import State
from tests.support.deadlines import scaled
from tests.support.shells import COMMANDS, absent, interactive
from tests.unit.admin.fakes import backend_status

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.machine import Machine

in_each_shell = pytest.mark.parametrize(
    "shell",
    [
        pytest.param(
            shell, marks=pytest.mark.skipif(absent(shell), reason=f"no {shell} on this machine")
        )
        for shell in COMMANDS
    ],
)


@in_each_shell
@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("lbctl stat", "lbctl status"),
        ("lbctl status --wa", "lbctl status --watch"),
        ("lbctl up --runtime lo", "lbctl up --runtime local"),
        ("lbctl up --hash-k", "lbctl up --hash-key"),
        ("lbctl completion f", "lbctl completion fish"),
        ("lbctl token r", "lbctl token rotate"),
    ],
)
def test_words_are_completed_in_the_shell(
    shell: str, typed: str, becomes: str, tmp_path: Path
) -> None:
    with interactive(shell, os.environ, tmp_path) as terminal:
        terminal.press(f"{typed}\t")
        terminal.wait(lambda shown: becomes in shown.text)


@pytest.mark.skipif(absent("fish"), reason="no fish on this machine")
def test_a_description_with_a_comma_is_whole(tmp_path: Path) -> None:
    with interactive("fish", os.environ, tmp_path) as terminal:
        terminal.press("lbctl s\t")
        terminal.wait(lambda shown: "up or down,..." in shown.text)


@in_each_shell
def test_without_a_stack_nothing_is_said(shell: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "LBCTL_STATE_DIR": str(tmp_path / "none"),
        "LBCTL_RUNTIME": "local",
    }
    with interactive(shell, environment, tmp_path) as terminal:
        terminal.press("lbctl explain sho\t")
        terminal.press("x\x01\x0b")  # to the beginning of the line, and delete to its end
        terminal.press("echo ne''xt\n")
        terminal.wait(lambda shown: "next" in shown.text)
        assert "lbctl:" not in terminal.text
        assert "Traceback" not in terminal.text


def offered(machine: Machine, *words: str) -> list[str]:
    """What a shell is told when the last of the words is being typed."""
    session = Session(screen=Screen(), runtimes=machine)
    shell = BashComplete(lbctl, {"obj": session}, "lbctl", "_LBCTL_COMPLETE")
    *before, begun = words
    found = shell.get_completions(before, begun)
    return [item.value for item in found]


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["up", "--tls-p"], ["--tls-port"]),
        (["reload", "--tls-p"], []),  # known, and refused
        (["reload", "--hash-k"], ["--hash-key"]),
    ],
)
def test_flags_that_help_does_not_list(
    machine: Machine, words: list[str], flags: list[str]
) -> None:
    assert offered(machine, *words) == flags


@pytest.fixture
def running(machine: Machine) -> Machine:
    machine.type("up")
    machine.lb.fleet.rows = [
        backend_status("shop-1"),
        backend_status("shop-2", state=State.DRAINING),
        backend_status("other", state=State.DOWN),
    ]
    return machine


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["explain", ""], ["shop-1", "shop-2", "other"]),
        (["explain", "sh"], ["shop-1", "shop-2"]),
        (["explain", "127.1."], ["127.1.0.1"] * 3),
        (["explain", "x"], []),
        (["drain", ""], ["shop-1", "other"]),
        (["undrain", ""], ["shop-2"]),
        (["--project", "shop", "explain", "o"], ["other"]),
        (["explain", "--project", "shop", "o"], ["other"]),
        (["explain", "--runtime", "d"], ["docker"]),
        (["scale", ""], []),
    ],
)
def test_names_of_the_running_stack(running: Machine, words: list[str], names: list[str]) -> None:
    assert offered(running, *words) == names


def test_a_stack_that_does_not_run_has_no_names(machine: Machine) -> None:
    assert offered(machine, "explain", "") == []


@pytest.mark.parametrize(
    "words", [["--project", "NO!", "explain", ""], ["explain", "--runtime", "moon", ""]]
)
def test_what_cannot_be_meant_has_no_names(running: Machine, words: list[str]) -> None:
    assert offered(running, *words) == []


def test_a_file_of_settings_that_cannot_be_read_is_not_complained_of(
    running: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lbctl.toml").write_text("nonsense")
    assert offered(running, "explain", "") == []
    assert capfd.readouterr() == ("", "")


def test_an_lb_that_is_slow_is_not_waited_for(
    running: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "_WITHIN_S", 0.05)
    running.lb.stall()
    began_s = time.monotonic()
    assert offered(running, "explain", "") == []
    assert time.monotonic() - began_s < scaled(2)


@pytest.mark.parametrize("shell", ["", "tcsh", "BASH"])
def test_shells_that_are_not_known(machine: Machine, shell: str) -> None:
    typed = machine.type("completion", shell)
    assert (typed.status, typed.out, len(typed.err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("shell", COMMANDS)
def test_the_script_calls_lbctl(machine: Machine, shell: str) -> None:
    typed = machine.type("completion", shell)
    assert (typed.status, typed.err) == (0, "")
    assert f"_LBCTL_COMPLETE={shell}_complete" in typed.out
