"""`lbctl bench`, with a program in wrk's place that says what a test has it say."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from lbctl.cli import manual
from lbctl.model import Process
from tests.unit.admin.fakes import WHEN
from tests.unit.core.test_wrk import GOOD, NOTHING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.machine import Machine, Typed


@pytest.fixture
def bench(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(machine, monkeypatch, tmp_path)


class Bench:
    """A local stack whose only worker is this process."""

    def __init__(self, machine: Machine, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.machine = machine
        self.path = path
        machine.engine_problem = "no engine"
        monkeypatch.setenv("PATH", str(path))
        machine.lb.processes([Process("worker", "worker-0", os.getpid(), 0, WHEN)])
        machine.type("up")

    def wrk(self, says: str, status: int = 0) -> None:
        program = self.path / "wrk"
        said, typed = self.path / "said", self.path / "typed"
        said.write_text(says)
        # Only what every shell has built in: the search path holds nothing else.
        lines = 'while IFS= read -r line; do printf "%s\\n" "$line"; done'
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$*" > {typed}\n{lines} < {said}\nexit {status}\n'
        )
        program.chmod(0o755)

    @property
    def typed(self) -> str:
        return (self.path / "typed").read_text().strip()

    def type(self, *arguments: str) -> Typed:
        return self.machine.type("bench", *arguments)


def test_the_result(bench: Bench) -> None:
    bench.wrk(GOOD)
    typed = bench.type()
    assert typed.status == 0, typed
    lines = typed.out.splitlines()
    assert lines[:4] == [
        "requests  10,789 a second, 108,100 in all",
        "latency   p50 0.47 ms  p90 10.01 ms  p99 1100 ms  max 1200 ms",
        "transfer  3.1 MB/s",
        "errors    12 not 2xx or 3xx, 1 no connection, 2 read, 3 write, 4 timed out",
    ]
    assert " us a request (workers), so " in lines[4]
    assert "share the" in typed.out
    assert "not the most that the lb can do" in typed.out
    assert bench.typed == f"--latency -t1 -c64 -d10s {bench.machine.lb.traffic.url}/"


def test_options(bench: Bench) -> None:
    bench.wrk(GOOD)
    assert bench.type("--seconds", "1", "--connections", "8", "--threads", "2").status == 0
    assert bench.typed.startswith("--latency -t2 -c8 -d1s ")


def test_json(bench: Bench) -> None:
    bench.wrk(GOOD)
    found = json.loads(bench.type("--json", "--seconds", "2").out)
    assert list(found) == list(manual.SHAPES["bench"])
    assert (found["seconds"], found["connections"], found["threads"]) == (2, 64, 1)
    assert (found["backends"], found["workers"]) == (3, 1)
    assert found["requests_per_second"] == 10_788.53
    assert found["latency_ms"]["p99"] == 1100
    assert found["errors"] == {"status": 12, "connect": 1, "read": 2, "write": 3, "timeout": 4}
    assert found["cpu"]["of"] == "workers"
    assert found["load_shares_the_machine"] is True


def test_workers_that_were_replaced_have_no_figure(bench: Bench) -> None:
    bench.wrk(GOOD)
    bench.machine.lb.processes([Process("worker", "worker-0", 2**22 + 1, 0, WHEN)])
    typed = bench.type()
    assert typed.status == 0
    assert "CPU       not known" in typed.out
    assert json.loads(bench.type("--json").out)["cpu"] is None


def test_nothing_answered_is_a_failure(bench: Bench) -> None:
    bench.wrk(NOTHING)
    typed = bench.type()
    assert typed.status == 1
    assert "errors    8 timed out" in typed.out
    assert "CPU       nothing was answered" in typed.out
    assert json.loads(bench.type("--json").out)["cpu"] is None


def test_no_wrk(bench: Bench) -> None:
    typed = bench.type()
    assert (typed.status, typed.out) == (3, "")
    assert typed.err.splitlines()[0] == "lbctl: wrk is not installed"
    assert "apt-get install wrk" in typed.err


@pytest.mark.parametrize(
    ("says", "status", "reason"),
    [
        ("unable to connect to 127.0.0.1:1 Connection refused\n", 1, "unable to connect to"),
        ("", 1, "nothing"),
        ("Running well\n", 0, "not a line of wrk's: 'Running well'"),
        (GOOD.partition("Requests/sec")[0], 0, "wrk did not say: rate"),
        ("\x1b[31mred\x1b[0m\n", 1, "red"),
    ],
)
def test_wrk_that_gives_no_figures(bench: Bench, says: str, status: int, reason: str) -> None:
    bench.wrk(says, status)
    typed = bench.type()
    assert (typed.status, typed.out) == (1, "")
    assert reason in typed.err
    assert "\x1b" not in typed.err
    assert len(typed.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seconds", "0"), ("--seconds", "1.5"), ("--connections", "0"), ("--threads", "0"),
        ("--threads", "65"), ("--connections", "2", "--threads", "3"),
    ],
)  # fmt: skip
def test_wrong_usage(bench: Bench, arguments: tuple[str, ...]) -> None:
    bench.wrk(GOOD)
    typed = bench.type(*arguments)
    assert (typed.status, typed.out) == (2, "")
    assert len(typed.err.splitlines()) == 1


def test_without_a_stack(bench: Bench) -> None:
    bench.wrk(GOOD)
    bench.machine.type("down")
    assert bench.type().status == 1
