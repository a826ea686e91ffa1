"""New workers on the same sockets, and processes that hang, on the local runtime under load."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli, Wrk
from tests.support.deadlines import until
from tests.support.lists import assert_lists

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 64


@contextlib.contextmanager
def started(**settings: str) -> Iterator[Cli]:
    cli = Cli(f"t{os.urandom(4).hex()}", "local", settings={"LBCTL_WORKERS": "2", **settings})
    try:
        cli.ok("up")
        yield cli
    finally:
        cli.clean()


@pytest.fixture
def stack() -> Iterator[Cli]:
    with started() as cli:
        yield cli


@pytest.fixture
def impatient() -> Iterator[Cli]:
    """A stack in which a process that is silent for a second is taken to hang."""
    with started(LBCTL_HEARTBEAT_TIMEOUT_S="1") as cli:
        yield cli


def pids(stack: Cli) -> set[int]:
    return {*stack.processes("worker"), *stack.processes("controller")}


def renewed(stack: Cli, before: set[int]) -> bool:
    """Whether all of these have been replaced, and nothing of them is left."""
    now = stack.status()["processes"]
    ended = not any(row["role"] == "draining" for row in now)
    return len(pids(stack)) == 3 and not pids(stack) & before and ended


@pytest.mark.parametrize("how", ["command", "signal"])
def test_a_reload_costs_no_request(stack: Cli, how: str) -> None:
    before = pids(stack)
    load = Wrk(stack.url + "/", seconds=5, connections=CONNECTIONS)
    until(lambda: stack.metric("lbctl_requests_total") > 100)
    if how == "command":
        assert "reloaded in" in stack.ok("reload")
    else:
        os.kill(stack.processes("supervisor")[0], signal.SIGHUP)
    until(partial(renewed, stack, before), within=20)
    said = load.finish()
    assert said.failed == 0, said.text
    assert_lists(stack, 3)


def test_reloads_in_a_row_cost_none_either(stack: Cli) -> None:
    load = Wrk(stack.url + "/", seconds=6, connections=CONNECTIONS)
    for balance in ("p2c", "round-robin", "least-connections"):
        stack.ok("reload", "--balance", balance)
        assert stack.status()["settings"]["balance"] == balance
    said = load.finish()
    assert said.failed == 0, said.text


def test_up_with_other_settings_reloads_and_costs_no_request(stack: Cli) -> None:
    before = pids(stack)
    supervisor = stack.processes("supervisor")
    load = Wrk(stack.url + "/", seconds=4, connections=CONNECTIONS)
    result = stack("up", "--fall", "7", "--workers", "3")
    assert result.status == 0, result
    assert "reloading with other settings: fall, workers" in result.err
    said = load.finish()
    assert said.failed == 0, said.text
    assert stack.processes("supervisor") == supervisor
    until(lambda: len(stack.processes("worker")) == 3)
    assert not before & pids(stack)
    assert stack.status()["settings"]["fall"] == 7


def test_what_cannot_be_used_changes_nothing(stack: Cli) -> None:
    before = pids(stack)
    result = stack("reload", "--balance", "no-such")
    assert result.status == 2, result
    kept = stack.state / stack.project / "serve.json"
    settings = json.loads(kept.read_text())
    for wrong in ({"fall": 0}, {"no-such": 1}, {"port": settings["port"] + 1}):
        kept.write_text(json.dumps(settings | wrong))
        os.kill(stack.processes("supervisor")[0], signal.SIGHUP)
        refused = "not reloaded: "
        until(partial(said_so, stack, refused + ("port" if "port" in wrong else "serve.json")))
    kept.write_text(json.dumps(settings))
    assert pids(stack) == before
    assert_lists(stack, 3)


def said_so(stack: Cli, words: str) -> bool:
    return any(words in line for line in stack.logged().splitlines() if '"control"' in line)


@pytest.mark.parametrize("role", ["worker", "controller"])
def test_who_hangs_is_replaced(impatient: Cli, role: str) -> None:
    stack = impatient
    victim = stack.processes(role)[0]
    os.kill(victim, signal.SIGSTOP)
    until(lambda: stack.processes(role) and victim not in stack.processes(role), within=20)
    assert said_so(stack, "hangs, killing it")
    assert_lists(stack, 3)


def test_a_pause_of_all_of_it_is_nobodys_fault(impatient: Cli) -> None:
    """As where a container is paused: everybody looks silent when it goes on."""
    stack = impatient
    before = pids(stack)
    everybody = [*stack.processes("supervisor"), *before]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(is_stopped(pid) for pid in everybody))
    until(partial(passed, os.times().elapsed + 2.5))
    for pid in reversed(everybody):
        os.kill(pid, signal.SIGCONT)
    until(partial(passed, os.times().elapsed + 1.5))
    assert pids(stack) == before
    assert not said_so(stack, "hangs, killing it")


def is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - a file of the kernel's
        return file.read().rpartition(")")[2].split()[0] == "T"


def passed(moment: float) -> bool:
    return os.times().elapsed >= moment
