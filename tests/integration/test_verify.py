"""`lbctl verify` on a real stack of processes: it holds, and it finds the fault that is put in."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.deadlines import scaled, until
from tests.support.lists import assert_lists

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def stack() -> Iterator[Cli]:
    one = Cli(f"t{secrets.token_hex(4)}", "local", settings={"LBCTL_WORKERS": "2"})
    try:
        one.ok("up")
        yield one
    finally:
        one.clean()


def fault(stack: Cli, name: str) -> None:
    """From now on this backend answers every eighth request for the page with 500."""
    directory = stack.state / stack.project / "backends" / name
    configuration = directory / "nginx.conf"
    text = configuration.read_text(encoding="utf-8")
    chance = 'map $request_id $fault { default 0; "~^[01]" 1; }'  # two in sixteen
    text = text.replace("http {", f"http {{ {chance}", 1)
    broken = "location = / {\n            if ($fault) { return 500; }"
    text, count = re.subn(r"location = / \{", broken, text, count=1)
    assert count == 1
    configuration.write_text(text, encoding="utf-8")
    master = int((directory / "nginx.pid").read_text(encoding="ascii"))
    workers = children(master)
    os.kill(master, signal.SIGHUP)
    until(lambda: children(master).isdisjoint(workers))


def children(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return {int(child) for child in listed.split()}


def test_a_healthy_stack_holds_and_is_left_as_it_was(stack: Cli) -> None:
    before = {row["name"] for row in stack.backends()}
    result = stack("verify", "--seconds", "10")
    assert result.status == 0, result
    assert "every promise was held" in result.out
    for done in (
        "scale 3 -> 10", "scale 10 -> 2", "all checks fail at once", "kill -9 a backend",
        "pause a backend", "kill -9 a worker",
    ):  # fmt: skip
        assert re.search(rf"^{done}.* held$", result.out, re.MULTILINE), result.out
    assert stack.status()["replicas"] == 3
    assert_lists(stack, 3)
    if "n/a: this lb lacks it (POST /api/v1/rollout" in result.out:
        assert {row["name"] for row in stack.backends()} == before


def test_ctrl_c_leaves_nothing_paused_and_nobody_drained(stack: Cli) -> None:
    for told, status in ((signal.SIGINT, 130), (signal.SIGTERM, 130)):
        with subprocess.Popen(
            [sys.executable, "-m", "lbctl", "verify", "--seconds", "2"],
            env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            # A backend that is killed or paused: one is out of rotation, or more were started.
            until(lambda: len(stack.backends()) != 3)
            process.send_signal(told)
            _, errors = process.communicate(timeout=scaled(60))
        assert process.returncode == status, errors
        assert "Traceback" not in errors
        assert_lists(stack, 3)
        assert stack.status()["replicas"] == 3


def test_a_fault_in_one_backend_is_found_and_named(stack: Cli) -> None:
    victim = stack.backends()[-1]["name"]
    fault(stack, victim)
    result = stack("verify", "--seconds", "3", "--json")
    if result.status == 1 and not result.out:  # it failed before it began, and was named then
        assert f"before anything is disturbed: status 500 from {victim}" in result.err
        return
    document = json.loads(result.out)
    assert result.status == 1, document
    assert not document["held"]
    calm = document["disturbances"][0]
    assert calm["failed"] > 0
    assert {(one["kind"], one["backend"]) for one in calm["failures"]} == {("status", victim)}
    assert any(f"status 500 from {victim}" in line for line in document["broken"])


def test_a_stack_in_trouble_is_refused(stack: Cli) -> None:
    stack.ok("scale", "1")
    result = stack("verify")
    assert result.status == 1
    assert "with fewer than 2 backends" in result.err
    assert result.out == ""


def test_without_a_stack() -> None:
    one = Cli(f"t{secrets.token_hex(4)}", "local")
    try:
        result = one("verify")
        assert result.status == 1
        assert "start one: lbctl up" in result.err
    finally:
        one.clean()
