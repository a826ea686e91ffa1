"""The commands as a person types them: what they say, where, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lbctl
from lbctl import paths
from lbctl.cli import up
from lbctl.cli.client import AdminClient, NoAnswerError
from lbctl.deploy import LogLine
from lbctl.errors import (
    DeadlineError,
    EngineError,
    ImageError,
    LbctlError,
    MachineError,
    OperationError,
    UsageError,
)
from lbctl.model import Process, State
from lbctl.process import supervisor
from tests.unit.admin.fakes import backend_status
from tests.unit.cli.machine import NO_ENGINE, Machine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbctl.config import Config

SOURCES = Path(lbctl.__file__).parents[1]
NO_NGINX = "no nginx is installed\ninstall one: apt-get install nginx-light"


# up


def test_up_starts_three_and_shows_the_list(machine: Machine) -> None:
    typed = machine.type("up")
    traffic, admin = machine.lb.traffic.url, machine.lb.admin.url
    assert typed.status == 0
    assert typed.out.splitlines() == [
        f"serving  {traffic}  (3 backends in rotation)",
        f"admin    {admin}  (the dashboard; metrics: {admin}/metrics)",
        "",
        f"$ curl -s {traffic}/",
        "127.1.0.1",
        "127.1.0.2",
        "127.1.0.3",
    ]
    assert typed.err.splitlines() == [
        "runtime: docker (a Docker engine answers)",
        "starting lbctl-lb",
    ]


def test_up_again_keeps_what_the_stack_has(machine: Machine) -> None:
    machine.type("up", "--replicas", "5")
    assert machine.type("up").status == 0
    assert machine.type("up", "--replicas", "2").status == 0
    assert machine.lb.scaler.wishes == [5, 5, 2]


def test_up_keeps_backends_that_joined_without_a_wish(machine: Machine) -> None:
    machine.lb.fleet.rows = [
        backend_status("a"), backend_status("b", state=State.DOWN),
        backend_status("c", state=State.INVALID),
    ]  # fmt: skip
    machine.type("up")
    assert machine.lb.scaler.wishes == [2]


def test_the_number_of_backends_is_no_setting_of_the_lb(machine: Machine) -> None:
    machine.type("up", "--replicas", "5", "--lb-image", "mine:1", "--port", "8123")
    (options,) = machine.stacks["docker"].options
    assert options.config.port == 8123
    assert options.config.deploy.replicas == 0
    assert options.config.deploy.lb_image == ""
    assert options.lb_image == "mine:1"


def test_settings_come_from_the_environment_too(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LBCTL_REPLICAS", "4")
    monkeypatch.setenv("LBCTL_PROJECT", "shop")
    monkeypatch.setenv("LBCTL_BUILD", "1")
    assert machine.type("up").status == 0
    (options,) = machine.stacks["docker"].options
    assert (options.config.project, options.build) == ("shop", True)
    assert machine.lb.scaler.wishes == [4]


def test_settings_come_from_a_file_too(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "lbctl.toml").write_text('replicas = 2\nruntime = "local"\n', encoding="utf-8")
    assert machine.type("up").status == 0
    assert machine.lb.scaler.wishes == [2]
    assert machine.stacks["local"].there


def test_up_falls_back_to_processes_where_images_cannot_be_had(machine: Machine) -> None:
    machine.stacks["docker"].error = ImageError("image alpine:3.10 cannot be pulled: no route")
    typed = machine.type("up")
    assert typed.status == 0
    assert "runtime: local (image alpine:3.10 cannot be pulled: no route)" in typed.err
    assert machine.stacks["local"].there


def test_up_shows_what_a_failed_build_said_before_it_falls_back(machine: Machine) -> None:
    machine.stacks["docker"].error = ImageError("building x failed: code 1\n    cc: no\n    gone")
    typed = machine.type("up")
    assert typed.status == 0
    there = typed.err.splitlines()
    at = there.index("    cc: no")
    assert there[at : at + 3] == [
        "    cc: no",
        "    gone",
        "runtime: local (building x failed: code 1)",
    ]


async def never(*_arguments: object) -> None:
    await asyncio.Event().wait()


def unanswered(times: int) -> Callable[..., Awaitable[None]]:
    """An admin port that answers only after so many questions."""
    left = iter(range(times))

    async def healthy(*_arguments: object) -> None:
        if next(left, None) is not None:
            raise NoAnswerError("the admin port broke off")

    return healthy


ENDED = "lbctl: project 'shop' was ended while it started; lbctl up starts it again"


def test_up_does_not_wait_for_a_stack_that_somebody_ended(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "_END_INTERVAL_S", 0.01)
    monkeypatch.setattr(AdminClient, "healthy", never)
    machine.stacks["docker"].ends_after_s = 0.05
    typed = machine.type("up")
    assert (typed.status, typed.out) == (1, "")
    assert typed.err.splitlines()[-1] == ENDED


def test_up_does_not_bring_back_what_another_command_is_ending(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdminClient, "healthy", unanswered(1))
    machine.stacks["docker"].ending = True
    typed = machine.type("up")
    assert (typed.status, typed.err.splitlines()[-1]) == (1, ENDED)
    assert len(machine.stacks["docker"].options) == 1


def test_up_looks_once_more_where_nobody_answers_and_it_is_still_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdminClient, "healthy", unanswered(1))
    typed = machine.type("up")
    assert typed.status == 0
    assert "the admin port broke off; once more" in typed.err.splitlines()
    assert len(machine.stacks["docker"].options) == 2

    monkeypatch.setattr(AdminClient, "healthy", unanswered(2))
    typed = machine.type("up")
    assert (typed.status, typed.err.splitlines()[-1]) == (1, "lbctl: the admin port broke off")


LBS = [
    Process("controller", f"{lb}/controller", 7, 0, datetime(2026, 11, 28, 18, 40, tzinfo=UTC), lb)
    for lb in "ab"
]


@pytest.mark.parametrize("command", ["up", "reload", "upgrade"])
def test_who_leads_is_to_know_every_lb(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(up, "_FOLLOWS_S", 0.1)
    monkeypatch.setattr(AdminClient, "reload", unanswered(0))
    machine.type("up")
    machine.stacks["docker"].lbs = ("a", "b")
    machine.lb.processes(LBS)
    typed = machine.type(command)
    assert typed.status == 0
    assert "follow" not in typed.err

    machine.lb.processes(LBS[:1])
    typed = machine.type(command)
    said = "lb b runs, but does not follow the one that leads; see lbctl logs"
    if command == "upgrade":
        assert (typed.status, typed.out) == (DeadlineError.exit_status, "")
        assert typed.err.splitlines()[-1] == f"lbctl: {said}"
    else:  # what can be done is done
        assert typed.status == 0
        assert typed.out
        assert typed.err.splitlines()[-1] == said


@pytest.mark.parametrize(
    "given", [("--runtime", "docker"), ("--build",), ("--lb-image", "x"), ("--backend-image", "x")]
)
def test_up_does_not_fall_back_from_what_was_asked_for(
    machine: Machine, given: tuple[str, ...]
) -> None:
    machine.stacks["docker"].error = ImageError("image x cannot be pulled: no route")
    typed = machine.type("up", *given)
    assert (typed.status, typed.out) == (1, "")
    assert typed.err.splitlines()[-1] == "lbctl: image x cannot be pulled: no route"
    assert not machine.stacks["local"].options


def test_up_where_nothing_can_run(machine: Machine) -> None:
    machine.engine_problem, machine.nginx = NO_ENGINE, NO_NGINX
    typed = machine.type("up")
    assert typed.status == 3
    assert typed.err.splitlines() == [
        "lbctl: no Docker engine: there is no /var/run/docker.sock; no nginx is installed",
        "install one: apt-get install nginx-light",
    ]


# scale


def test_scale_says_what_it_did(machine: Machine) -> None:
    machine.type("up")
    typed = machine.type("scale", "7")
    assert typed.status == 0
    assert typed.out.startswith("3 -> 7 in ")
    assert typed.out.endswith(" s\n")
    assert machine.lb.scaler.wishes == [3, 7]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeadlineError("5 of 7 after 30 s: b-6 is probing (connection refused)"), 1),
        (EngineError("start b-6: no space left on device"), 1),
        (OperationError("overtaken by a newer wish"), 1),
        (UsageError("replicas: no"), 2),
    ],
)
def test_scale_fails_with_the_reason(machine: Machine, error: LbctlError, status: int) -> None:
    machine.type("up")
    machine.lb.scaler.error = error
    typed = machine.type("scale", "7")
    assert (typed.status, typed.out, typed.err) == (status, "", f"lbctl: {error}\n")


# status, logs, down


def test_status_shows_processes_and_backends(machine: Machine) -> None:
    machine.type("up")
    machine.lb.fleet.rows.append(
        backend_status("b-4", state=State.DOWN, reason="answered 503", published=6)
    )
    typed = machine.type("status")
    assert typed.status == 0
    assert f"{machine.lb.traffic.url}: 3 of 3 in rotation, generation 7" in typed.out
    rows = {line.split()[0]: line.split() for line in typed.out.splitlines() if line.strip()}
    assert rows["worker-1"][1:3] == ["worker", "17"]
    assert rows["b-1"][2] == "up"
    assert rows["b-4"][2] == "down"
    assert rows["b-4"][-3:] == ["6", "answered", "503"]


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_no_line_on_a_pipe_ends_in_blanks(machine: Machine, command: str) -> None:
    machine.type("up")
    shown = machine.type(command).out.splitlines()
    assert len(shown) > 2
    assert shown == [line.rstrip() for line in shown]


def test_status_as_json_is_the_ports_own(machine: Machine) -> None:
    machine.type("up")
    typed = machine.type("status", "--json")
    document = json.loads(typed.out)
    assert typed.out.count("\n") == 1
    assert document["in_rotation"] == 3
    assert [backend["name"] for backend in document["backends"]] == ["b-1", "b-2", "b-3"]


def test_hostile_names_do_not_reach_the_terminal(machine: Machine) -> None:
    machine.type("up")
    machine.lb.fleet.rows = [
        backend_status("evil\x1b]0;owned\x07\u202e", reason="[bold red]x[/]\r\nfake line")
    ]
    typed = machine.type("status")
    assert "[bold red]x[/]" in typed.out  # shown as it is, not obeyed
    for bad in ("\x1b", "\x07", "\r", "\u202e", "\nfake"):
        assert bad not in typed.out


@pytest.mark.parametrize("command", [("status",), ("scale", "3"), ("logs",)])
def test_without_a_stack_it_says_how_to_start_one(
    machine: Machine, command: tuple[str, ...]
) -> None:
    typed = machine.type(*command)
    assert (typed.status, typed.out) == (1, "")
    assert typed.err == "lbctl: no stack of project 'lbctl' is here; start one: lbctl up\n"
    machine.engine_problem = NO_ENGINE
    assert len(machine.type(*command).err.splitlines()) == 2


def test_a_stack_that_has_ended(machine: Machine) -> None:
    machine.type("up")
    machine.stacks["docker"].running = False
    typed = machine.type("status")
    assert typed.status == 1
    assert "has ended; lbctl up brings it back" in typed.err
    assert machine.type("logs").status == 0  # why it ended is in there


def test_an_admin_port_that_does_not_answer(machine: Machine) -> None:
    machine.type("up")
    machine.lb.admin = machine.lb.admin._replace(port=1)
    typed = machine.type("status")
    assert typed.status == 1
    assert typed.err == (
        "lbctl: the admin port http://127.0.0.1:1 does not answer: connection refused\n"
    )


def test_logs_replace_control_characters(machine: Machine) -> None:
    machine.type("up")
    typed = machine.type("logs")
    assert typed.out.splitlines() == ["lb | started", "lb | ?[31mred?[0m?"]
    assert machine.type("logs", "--tail", "1").out.count("\n") == 1


def test_logs_as_documents(machine: Machine) -> None:
    machine.type("up")
    said = {"log": "access", "target": "/" + 20_000 * "x", "status": 200}
    machine.stacks["docker"].lines = [
        LogLine("lbctl-lb-a", json.dumps(said), 12),
        LogLine("lbctl-backend-1", '2026/11/28 [error] \x1b[31m"', 12),
        LogLine("lbctl-backend-1", "[1]", 12),
        LogLine("lbctl-backend-1", '{"whose": "lbctl-lb-a", "log": "audit"}', 12),
        LogLine("lbctl-backend-1", 100_000 * "[", 12),
        LogLine("lbctl-backend-1", '{"a": NaN}', 12),
    ]
    lines = machine.type("logs", "--json").out.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"whose": "lbctl-lb-a", **said},
        {"whose": "lbctl-backend-1", "log": "text", "message": '2026/11/28 [error] \x1b[31m"'},
        {"whose": "lbctl-backend-1", "log": "text", "message": "[1]"},
        {"whose": "lbctl-backend-1", "log": "audit"},
        {"whose": "lbctl-backend-1", "log": "text", "message": 100_000 * "["},
        {"whose": "lbctl-backend-1", "log": "text", "message": '{"a": NaN}'},
    ]
    assert all(line.isprintable() for line in lines)


def test_down(machine: Machine) -> None:
    machine.type("up")
    typed = machine.type("down")
    assert (typed.status, typed.out) == (0, "project 'lbctl': ended\n")
    typed = machine.type("down")
    assert (typed.status, typed.out) == (0, "project 'lbctl': there was nothing to end\n")


def test_down_ends_both_runtimes(machine: Machine) -> None:
    machine.stacks["docker"].there = machine.stacks["local"].there = True
    assert machine.type("down").status == 0
    assert not machine.stacks["docker"].there
    assert not machine.stacks["local"].there


def test_down_on_one_runtime_only(machine: Machine) -> None:
    machine.stacks["docker"].there = machine.stacks["local"].there = True
    assert machine.type("down", "--runtime", "local").status == 0
    assert machine.stacks["docker"].there
    machine.engine_problem = NO_ENGINE
    assert machine.type("down", "--runtime", "docker").status == 3


def test_down_tells_what_it_could_not_look_at(machine: Machine) -> None:
    machine.engine_problem = NO_ENGINE
    typed = machine.type("down")
    assert typed.status == 0
    assert "containers could not be looked at: no Docker engine" in typed.err


# Wrong usage


@pytest.mark.parametrize("arguments", [[], ["token"]])
def test_a_command_that_is_missing_is_asked_for_with_the_help(
    machine: Machine, arguments: list[str]
) -> None:
    typed = machine.type(*arguments)
    assert (typed.status, typed.out) == (2, "")
    assert typed.err.startswith(f"Usage: {' '.join(['lbctl', *arguments])} [OPTIONS] COMMAND")
    assert "\nCommands:\n" in typed.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["scale", "0"], "N: 0 is out of range (1 to 10000)"),
        (["scale", "-1"], "N: -1 is out of range (1 to 10000)"),
        (["scale", "-1", "--runtime", "local"], "N: -1 is out of range (1 to 10000)"),
        (["scale", "10001"], "N: 10001 is out of range (1 to 10000)"),
        (["scale", "x"], "N: 'x' is not a whole number"),
        (["scale", "1.5"], "N: '1.5' is not a whole number"),
        (["scale", ""], "N: '' is not a whole number"),
        (["scale"], "Missing argument 'N'."),
        (["scale", "1", "2"], "Got unexpected extra argument (2)"),
        (["up", "--replicas", "0"], "--replicas: 0 is out of range (1 to 10000)"),
        (["up", "--replicas", "-1"], "--replicas: -1 is out of range (1 to 10000)"),
        (["up", "--port", "65536"], "--port: 65536 is out of range (1 to 65535)"),
        (["up", "--runtime", "k8s"], "--runtime: 'k8s' is none of auto, docker, local"),
        (["up", "--bogus"], "No such option '--bogus'."),
        (["--bogus"], "No such option '--bogus'."),
        (["frobnicate"], "No such command 'frobnicate'."),
        (["serve"], "serve: say which runtime: --runtime docker or --runtime local"),
        (["logs", "--tail", "x"], "Invalid value for '-n' / '--tail'"),
    ],
)
def test_wrong_usage_is_one_line(machine: Machine, arguments: list[str], says: str) -> None:
    typed = machine.type(*arguments)
    assert (typed.status, typed.out) == (2, "")
    assert typed.err.startswith(f"lbctl: {says}")
    assert typed.err.count("\n") == 1


def test_wrong_values_of_the_environment_name_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LBCTL_PORT", "http")
    typed = machine.type("status")
    assert (typed.status, typed.err) == (2, "lbctl: LBCTL_PORT: 'http' is not a whole number\n")


def test_project_before_and_after_the_command(machine: Machine) -> None:
    for arguments in (["--project", "shop", "status"], ["status", "--project", "shop"]):
        assert "project 'shop'" in machine.type(*arguments).err
    typed = machine.type("--project", "a", "status", "--project", "b")
    assert "project 'b'" in typed.err


@pytest.mark.parametrize("name", ["", "Shop", "a/b", "../x", "-x", "a b", "x" * 41, "a\nb"])
def test_project_names(machine: Machine, name: str) -> None:
    typed = machine.type("status", "--project", name)
    assert typed.status == 2
    assert typed.err.count("\n") == 1


def test_another_runtime_than_the_running_one(machine: Machine) -> None:
    machine.type("up")
    typed = machine.type("up", "--runtime", "local")
    assert typed.status == 2
    assert "runs on docker, not on local" in typed.err
    assert not machine.stacks["local"].options


@pytest.mark.parametrize(
    ("runtime", "where"),
    [
        ("docker", paths.CONTAINER),
        ("local", paths.Paths(Path("/base/shop"), Path("/base/shop/secrets"))),
    ],
)
def test_serve_is_the_supervisor(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, runtime: str, where: paths.Paths
) -> None:
    told: list[tuple[Config, paths.Paths]] = []

    def main(config: Config, where: paths.Paths, reread: Callable[[], Config], lb: str) -> int:
        assert (reread(), lb) == (config, "")
        told.append((config, where))
        return 7

    monkeypatch.setenv("LBCTL_STATE_DIR", "/base")
    monkeypatch.setattr(supervisor, "main", main)
    options = ("--project", "shop", "--runtime", runtime, "--port", "8123", "--workers", "2")
    assert machine.type("serve", *options).status == 7
    ((config, given),) = told
    assert (config.project, config.port, config.workers) == ("shop", 8123, 2)
    assert given == where


# How commands end


@pytest.mark.parametrize("debug", [False, True])
def test_errors_are_no_tracebacks_unless_asked_for(machine: Machine, debug: bool) -> None:
    machine.stacks["docker"].error = MachineError("no room\nmake some")
    typed = machine.type(*(["--debug"] if debug else []), "up")
    assert typed.status == 3
    assert typed.err.splitlines()[-2:] == ["lbctl: no room", "make some"]
    assert ("Traceback" in typed.err) is debug


def test_a_bug_is_one_line(machine: Machine) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("oh")

    machine.stacks["local"].find = broken  # type: ignore[method-assign]
    typed = machine.type("up")
    assert typed.status == 1
    assert typed.err == (
        "lbctl: this should not happen: ZeroDivisionError('oh'); --debug shows where\n"
    )


def test_ctrl_c_is_one_line(machine: Machine) -> None:
    async def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

    machine.stacks["docker"].up = interrupted  # type: ignore[method-assign, assignment]
    # A shell's background job, as a test run may be, starts with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        typed = machine.type("up")
    finally:
        signal.signal(signal.SIGINT, before)
    assert typed.status == 130
    assert typed.err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in typed.err


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real program, in a process of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LBCTL_")}
    env |= {"PYTHONPATH": str(SOURCES), **environment}
    return subprocess.run(
        [sys.executable, "-m", "lbctl", *arguments],
        env=env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_the_program_itself() -> None:
    done = program("scale", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lbctl: N: 0 is out of range (1 to 10000)\n"
    done = program("--version")
    assert (done.returncode, done.stdout) == (0, f"lbctl {lbctl.__version__}\n")


def test_help_names_every_command() -> None:
    done = program("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for command in ("up", "scale", "status", "down", "logs", "doctor", "serve"):
        assert f"\n  {command} " in done.stdout
        assert program(command, "--help").stdout.startswith(f"Usage: lbctl {command} ")


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m lbctl up --help | true"
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PYTHONPATH": str(SOURCES)}, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
