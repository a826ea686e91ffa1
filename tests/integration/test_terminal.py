"""What people see: the commands on a real terminal, on a pipe, and in their shells."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.deadlines import scaled, until
from tests.support.shells import COMMANDS, absent, interactive
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38)[;m]")


@pytest.fixture(scope="module")
def stack() -> Iterator[Cli]:
    cli = Cli(f"t{os.urandom(4).hex()}", "local", settings={"LBCTL_WORKERS": "2"})
    try:
        cli.ok("up")
        yield cli
    finally:
        cli.clean()


def terminal(
    stack: Cli, *arguments: str, columns: int = 100, lines: int = 24, **more: str
) -> Terminal:
    environment = {"TERM": "xterm-256color", "LANG": "C.UTF-8"} | stack.environment | more
    for name in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"} - more.keys():
        environment.pop(name, None)
    command = [sys.executable, "-m", "lbctl", *arguments]
    return Terminal(command, environment, columns, lines)


@pytest.mark.parametrize(
    "arguments", [["status"], ["explain", "127."], ["scale", "x"], ["drain", "nobody"], ["doctor"]]
)
def test_colours_are_for_terminals_and_for_those_who_want_them(
    stack: Cli, arguments: list[str]
) -> None:
    arguments = [stack.backends()[0]["name"] if one == "127." else one for one in arguments]
    with terminal(stack, *arguments) as coloured:
        coloured.end()
    with terminal(stack, *arguments, NO_COLOR="1") as plain:
        plain.end()
    piped = stack(*arguments)
    assert _COLOUR.search(coloured.raw)
    assert not _COLOUR.search(plain.raw)
    assert "\x1b" not in piped.out + piped.err


def test_watching_goes_on_while_the_controller_is_replaced_and_ends_with_ctrl_c(
    stack: Cli,
) -> None:
    with terminal(stack, "status", "--watch") as watched:
        watched.wait(lambda shown: shown.raw.count("req/s") >= 4)
        assert "3 of 3 in rotation" in watched.text
        (controller,) = stack.processes("controller")
        os.kill(controller, signal.SIGKILL)
        watched.wait(lambda shown: "another controller leads since" in shown.text)
        watched.press("\x03")
        assert watched.end() == 0
    assert "interrupted" not in watched.text
    assert "Traceback" not in watched.text
    assert watched.raw.rstrip().endswith("\x1b[?1049l")  # the screen of before is back
    assert "\x1b[?25h" in watched.raw[-40:]  # and so is the cursor


def test_a_signal_leaves_the_terminal_as_it_was(stack: Cli) -> None:
    with terminal(stack, "status", "--watch") as watched:
        watched.wait(lambda shown: "req/s" in shown.text)
        watched.signal(signal.SIGTERM)
        assert watched.end() == 130
    assert watched.raw.rstrip().endswith("\x1b[?1049l")


def test_a_small_terminal_shows_who_fits_and_counts_the_rest(stack: Cli) -> None:
    with terminal(stack, "status", "--watch", columns=60, lines=7) as watched:
        watched.wait(lambda shown: sum("req/s" in one for one in shown.pictures) >= 2)
        watched.press("\x03")
        assert watched.end() == 0
    picture = next(one for one in watched.pictures if "req/s" in one).splitlines()
    assert len(picture) <= 7
    assert all(len(line) <= 60 for line in picture)
    assert picture[-1].startswith("and 2 more: 2 up")


@pytest.mark.parametrize("arguments", [["--watch"], ["--watch", "--json"]])
def test_on_a_pipe_watching_is_blocks_of_lines_or_documents(
    stack: Cli, arguments: list[str]
) -> None:
    command = [sys.executable, "-m", "lbctl", "status", *arguments]
    process = subprocess.Popen(
        command, env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if sum("in_rotation" in one or "in rotation" in one for one in seen) == 2:
            break
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=scaled(20))
    assert (process.returncode, errors) == (0, "")
    assert "\x1b" not in "".join(seen) + rest
    if "--json" in arguments:
        assert [json.loads(line)["in_rotation"] for line in seen] == [3, 3]


def test_a_change_shows_how_far_it_is(stack: Cli) -> None:
    with terminal(stack, "scale", "5") as changed:
        assert changed.end() == 0
    assert re.search(r"━+╌*  [3-5] of 5", changed.text)
    assert re.search(r"^3 -> 5 in ", changed.text.replace("\r", "\n"), re.MULTILINE)
    piped = stack("scale", "3")
    assert piped.status == 0
    assert piped.err == ""


@pytest.mark.parametrize(
    "shell",
    [
        pytest.param(
            shell, marks=pytest.mark.skipif(absent(shell), reason=f"no {shell} on this machine")
        )
        for shell in COMMANDS
    ],
)
def test_names_are_completed_in_the_shell(stack: Cli, shell: str, tmp_path: Path) -> None:
    name = stack.backends()[0]["name"]
    with interactive(shell, stack.environment, tmp_path) as typed:
        typed.press(f"lbctl explain {stack.project[:5]}\t")
        typed.wait(lambda shown: f"explain {name.rstrip('0123456789')}" in shown.text)


def test_explain_tells_of_one_that_is_drained_and_of_one_that_is_not_there(stack: Cli) -> None:
    name = stack.backends()[0]["name"]
    stack.ok("drain", name)
    said = stack.ok("explain", name)
    assert f"changes  lbctl undrain {name}" in said
    stack.ok("undrain", name)
    assert "in rotation: it is on every list" in stack.ok("explain", name)
    result = stack("explain", f"{name}9")
    assert (result.status, result.out) == (1, "")
    assert "did you mean" in result.err


def test_bench(stack: Cli) -> None:
    found = json.loads(stack.ok("bench", "--seconds", "1", "--connections", "8", "--json"))
    assert found["requests"] > 0
    assert sum(found["errors"].values()) == 0
    assert found["cpu"]["of"] == "workers"
    assert 1 < found["cpu"]["us_per_request"] < 10_000
    assert until(lambda: len(stack.backends()) == 3)
