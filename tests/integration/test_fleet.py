"""Draining, healing and rollouts on the local runtime: commands, real nginx, wrk, and kill -9."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.runtime.nginx import find_nginx
from tests.support.cli import Cli, Wrk
from tests.support.deadlines import scaled, until
from tests.support.lists import assert_lists

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 64


@pytest.fixture
def cli() -> Iterator[Cli]:
    settings = {"LBCTL_WORKERS": "2", "LBCTL_HEAL_AFTER_S": "1"}
    one = Cli(f"t{secrets.token_hex(4)}", "local", settings=settings)
    try:
        yield one
    finally:
        one.clean()


@pytest.fixture
def stack(cli: Cli) -> Cli:
    cli.ok("up")
    return cli


def ids(stack: Cli) -> set[str]:
    return {row["id"] for row in stack.backends()}


def rollout(stack: Cli) -> dict[str, Any]:
    """As status tells of it; empty where there was none."""
    return dict(stack.status()["rollout"] or {})


def change(stack: Cli, what: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Ask the admin port itself; its status and what it says."""
    token = (stack.state / stack.project / "admin-token").read_text(encoding="ascii").strip()
    request = urllib.request.Request(  # noqa: S310
        f"{stack.admin_url}/api/v1/{what}",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=scaled(5)) as response:  # noqa: S310
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def begin(stack: Cli, *arguments: str) -> subprocess.Popen[str]:
    """The command, still running."""
    return subprocess.Popen(
        [sys.executable, "-m", "lbctl", *arguments],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_no_request_failed(wrk: Wrk) -> None:
    load = wrk.finish()
    assert load.failed == 0, load.text
    assert load.requests > 100, load.text


def test_a_rollout_replaces_every_backend_and_costs_no_request(stack: Cli) -> None:
    before = ids(stack)
    wrk = Wrk(stack.url + "/", seconds=6, connections=CONNECTIONS)
    printed = stack.ok("rollout")
    assert printed.startswith("3 backends replaced in "), printed
    assert_no_request_failed(wrk)
    assert not ids(stack) & before
    assert_lists(stack, 3)
    assert rollout(stack) == {
        "revision": 2, "image": "", "state": "done", "replaced": 3, "total": 3, "message": "",
    }  # fmt: skip
    stack.ok("rollout", "--batch", "3")
    assert rollout(stack)["revision"] == 3
    assert_lists(stack, 3)


def test_drained_and_let_in_again_without_a_failed_request(stack: Cli) -> None:
    [one, *_] = stack.backends()
    [controller] = stack.processes("controller")
    wrk = Wrk(stack.url + "/", seconds=6, connections=CONNECTIONS)
    assert stack.ok("drain", one["name"]) == f"{one['name']} is drained, and on no list\n"
    assert_lists(stack, 2)
    stack.ok("drain", one["ip"])
    [row] = stack.backends("draining")
    assert row["id"] == one["id"]
    assert row["in_flight"] == 0
    assert row["reason"].startswith("drained by hand at 20")
    assert row["reason"] in stack.ok("status")

    os.kill(controller, signal.SIGKILL)
    until(lambda: stack.processes("controller") not in ([], [controller]))
    until(lambda: [(r["id"], r["reason"]) for r in stack.backends("draining")]
          == [(one["id"], row["reason"])])  # fmt: skip
    assert len(stack.backends()) == 2

    stack.ok("undrain", one["id"][:8])
    assert_no_request_failed(wrk)
    assert_lists(stack, 3)
    assert one["id"] in ids(stack)


def test_a_controller_that_is_killed_in_the_middle_of_a_rollout(stack: Cli) -> None:
    before = ids(stack)
    wrk = Wrk(stack.url + "/", seconds=8, connections=CONNECTIONS)
    command = begin(stack, "rollout")
    until(lambda: rollout(stack).get("replaced", 0) >= 1)
    [controller] = stack.processes("controller")
    os.kill(controller, signal.SIGKILL)
    out, err = command.communicate(timeout=scaled(30))
    assert (command.returncode, out[:20]) == (0, "3 backends replaced "), err
    assert rollout(stack)["revision"] == 2  # continued, not begun again
    assert not ids(stack) & before
    assert_lists(stack, 3)
    assert_no_request_failed(wrk)


def test_a_command_that_is_killed_leaves_the_rollout_running(stack: Cli) -> None:
    before = ids(stack)
    command = begin(stack, "rollout")
    until(lambda: rollout(stack).get("state") == "running")
    command.kill()
    command.communicate(timeout=scaled(5))
    follower = begin(stack, "rollout")
    follower.communicate(timeout=scaled(30))
    assert follower.returncode == 0
    until(lambda: rollout(stack)["state"] == "done")
    assert not ids(stack) & before
    assert_lists(stack, 3)


def test_a_command_that_is_interrupted_says_that_the_rollout_goes_on(stack: Cli) -> None:
    command = begin(stack, "rollout")
    until(lambda: rollout(stack).get("state") == "running")
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=scaled(5))
    assert command.returncode == 130
    assert "the rollout goes on without this command" in err
    until(lambda: rollout(stack)["state"] == "done")


def test_a_scale_meanwhile_is_refused_and_afterwards_starts_the_new(stack: Cli) -> None:
    command = begin(stack, "rollout")
    until(lambda: rollout(stack).get("state") == "running")
    status, answer = change(stack, "scale", {"replicas": 5})  # a command might come too late
    assert status == 409
    assert "a rollout is under way" in answer["error"]
    command.communicate(timeout=scaled(30))
    stack.ok("scale", "4")
    assert_lists(stack, 4)


def test_a_backend_that_cannot_run_any_more_is_replaced(stack: Cli) -> None:
    """Its configuration is broken and its process killed: the supervisor starts it in vain."""
    [victim, *others] = stack.backends()
    directory = stack.state / stack.project / "backends" / victim["name"]
    (directory / "nginx.conf").write_text("nonsense;\n")
    wrk = Wrk(stack.url + "/", seconds=5, connections=CONNECTIONS)
    os.kill(int((directory / "nginx.pid").read_text()), signal.SIGKILL)
    until(lambda: victim["id"] not in {row["id"] for row in stack.status()["backends"]})
    until(lambda: len(stack.backends()) == 3)
    assert {row["id"] for row in others} < ids(stack)
    assert_lists(stack, 3)
    until(lambda: stack.status()["healing"]["state"] == "idle")
    assert_no_request_failed(wrk)


def test_a_scale_down_does_not_wait_for_a_hung_worker_for_ever(cli: Cli) -> None:
    """It may have requests in flight: they get their time, and no more."""
    # It is nobody's to kill meanwhile, however long the rest takes here.
    cli.settings |= {"LBCTL_DRAIN_TIMEOUT_S": "2", "LBCTL_HEARTBEAT_TIMEOUT_S": "60"}
    cli.ok("up")
    [worker, *_] = cli.processes("worker")
    wrk = Wrk(cli.url + "/healthz", seconds=2)
    until(lambda: cli.metric("lbctl_requests_total") > 100)
    os.kill(worker, signal.SIGSTOP)
    try:
        cli.ok("scale", "2", within=20)
        assert_lists(cli, 2)
    finally:
        os.kill(worker, signal.SIGCONT)
        wrk.finish()


def test_no_heal_lets_it_be(cli: Cli) -> None:
    cli.ok("up", "--no-heal")
    assert cli.status()["healing"] == {"state": "off", "message": ""}
    assert "healing: off" in cli.ok("status")


def test_a_backend_that_is_never_well_says_what_its_log_says(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nginx is looked for whenever a backend is started: here one that may complain and end."""
    place = cli.state / "bin"
    place.mkdir(mode=0o755)
    nginx, broken = place / "nginx", place / "broken"
    nginx.write_text(
        f'#!/bin/sh\nif [ -e {broken} ] && [ "$1" != -V ]; then\n'
        f'  echo "no such user: nobody" >&2; exit 1\nfi\nexec {find_nginx().program} "$@"\n'
    )
    nginx.chmod(0o755)
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)
    cli.settings |= {"LBCTL_ROLLOUT_TIMEOUT_S": "3"}
    cli.ok("up", "--replicas", "2")
    before = ids(cli)
    broken.touch()
    wrk = Wrk(cli.url + "/", seconds=6, connections=CONNECTIONS)
    result = cli("rollout")
    assert result.status == 1
    assert "the rollout is rolled back: " in result.err
    assert "no such user: nobody" in result.err
    assert ids(cli) == before
    assert len(cli.status()["backends"]) == 2
    assert "rolled back" in cli.ok("status")
    assert_lists(cli, 2)
    assert_no_request_failed(wrk)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("rollout", "--image", "web:2"), 2),
        (("rollout", "--batch", "0"), 2),
        (("drain", "nobody"), 1),
        (("drain", ""), 1),
        (("drain",), 2),
        (("undrain", "127.0.0.1"), 1),
    ],
)
def test_what_cannot_be(stack: Cli, arguments: tuple[str, ...], status: int) -> None:
    result = stack(*arguments)
    assert (result.status, result.out) == (status, ""), result
    assert len(result.err.splitlines()) == 1, result.err
    assert rollout(stack) == {}
    assert len(stack.backends()) == 3


def test_the_last_one_cannot_be_drained(cli: Cli) -> None:
    cli.ok("up", "--replicas", "1")
    [only] = cli.backends()
    result = cli("drain", only["name"])
    assert result.status == 1
    assert "nobody would answer" in result.err
    assert len(cli.backends()) == 1


def test_commands_without_a_stack(cli: Cli) -> None:
    for arguments in (("drain", "x"), ("undrain", "x"), ("rollout",)):
        result = cli(*arguments)
        assert result.status == 1, result
        assert "lbctl up" in result.err
