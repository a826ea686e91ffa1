from __future__ import annotations

import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest
from benchmarks.compare import answers, rounds, wrk
from benchmarks.compare.entries import Entry
from benchmarks.compare.processes import Plan, Running
from benchmarks.compare.procfs import Stat
from benchmarks.compare.results import Run
from benchmarks.compare.rounds import Measurer, interleaved
from benchmarks.compare.scenarios import Scenario
from benchmarks.compare.wrk import Load

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Scenario("small", "x", "/list.txt")
CLOSING = Scenario("close", "x", "/list.txt", close=True)
FINE = Load(1000, 1.0, 99, 1, 2, 3)


def entry(name: str, only: tuple[str, ...] = ()) -> Entry:
    return Entry(name, name, lambda _: Plan(()), only=only)


def measurer(directory: Path) -> Measurer:
    return Measurer(directory, [0], {"/list.txt": b"a list\n"})


@pytest.fixture
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at processes finds 100 ticks more, each at connections 960 more."""
    ticks = iter(range(0, 10_000, 100))
    opened = iter(range(0, 96_000, 960))
    monkeypatch.setattr(rounds, "read_tree", lambda *_: {7: Stat(7, "p", 1, next(ticks))})
    monkeypatch.setattr(rounds, "read_connections_opened", lambda: next(opened))


def answering(monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    monkeypatch.setattr(wrk, "run", lambda *_: load)


@pytest.mark.usefixtures("_machine")
def test_a_sound_turn_has_its_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answering(monkeypatch, FINE)
    one = measurer(tmp_path)
    run = one.measure(entry("a"), Running("127.0.0.1:1", 7), SMALL, 1, 3)
    assert (run.problem, run.requests, run.cpu_s) == ("", 1000, 1.0)
    assert one.served == {"a": 1000}


@pytest.mark.usefixtures("_machine")
def test_without_a_proxy_there_is_no_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answering(monkeypatch, FINE)
    run = measurer(tmp_path).measure(entry("direct"), Running("127.0.0.1:1"), SMALL, 1, 3)
    assert (run.problem, run.cpu_s) == ("", None)


@pytest.mark.usefixtures("_machine")
@pytest.mark.parametrize(
    ("load", "scenario", "problem"),
    [
        (Load(9, 1.0, 1, 1, 1, 1, {"read": 3, "status": 1}), SMALL, "errors: 3 read, 1 status"),
        (Load(0, 1.0, 0, 0, 0, 0), SMALL, "no answer"),
        (Load(2000, 1.0, 1, 1, 1, 1), CLOSING, "960 connections for 2000 requests"),
    ],
)
def test_what_went_wrong_is_all_that_is_told(
    load: Load, scenario: Scenario, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answering(monkeypatch, load)
    run = measurer(tmp_path).measure(entry("a"), Running("127.0.0.1:1", 7), scenario, 4, 3)
    assert run == Run(scenario.name, "a", 4, problem)


@pytest.mark.usefixtures("_machine")
def test_new_connections_for_nearly_all_are_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answering(monkeypatch, FINE)
    run = measurer(tmp_path).measure(entry("a"), Running("127.0.0.1:1", 7), CLOSING, 1, 3)
    assert run.problem == ""


def test_a_proxy_that_died_has_no_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answering(monkeypatch, FINE)
    looks = iter([{7: Stat(7, "worker", 1, 0)}, {}])
    monkeypatch.setattr(rounds, "read_tree", lambda *_: next(looks))
    run = measurer(tmp_path).measure(entry("a"), Running("127.0.0.1:1", 7), SMALL, 1, 3)
    assert run.problem == "ended: worker"


def test_a_load_generator_that_fails_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed = partial(subprocess.CompletedProcess, [], 1, "", "unable to connect\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed())
    run = measurer(tmp_path).measure(entry("a"), Running("127.0.0.1:1"), SMALL, 1, 3)
    assert run.problem == "wrk said: unable to connect"


def test_own_backends_have_their_own_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, bytes]] = []
    monkeypatch.setattr(
        answers, "check", lambda _, scenario, wanted: asked.append((scenario.target, wanted))
    )
    own = Running("127.0.0.1:1", own={"/list.txt": ("/ips.txt", b"another\n")})
    one = measurer(tmp_path)
    assert one.command(SMALL, own, 3)[-1] == "http://127.0.0.1:1/ips.txt"
    assert one.wrong(entry("a"), own, SMALL) == ""
    assert one.wrong(entry("b"), Running("127.0.0.1:2"), SMALL) == ""
    assert asked == [("/ips.txt", b"another\n"), ("/list.txt", b"a list\n")]


class Scripted(Measurer):
    """Takes note of who was measured; `bad` gives wrong answers from the `from_look`th on."""

    def __init__(self, directory: Path, bad: str = "", from_look: int = 1) -> None:
        super().__init__(directory, [0], {})
        self.turns: list[str] = []
        self._bad, self._from_look = bad, from_look
        self._looks = 0

    def measure(
        self, entry: Entry, running: Running, scenario: Scenario, number: int, seconds: int
    ) -> Run:
        assert (running.listens, seconds) == ("127.0.0.1:1", 3 if number else rounds.WARM_UP_S)
        self.turns.append(f"{scenario.name} {number} {entry.name}")
        return Run(scenario.name, entry.name, number)

    def wrong(self, entry: Entry, running: Running, scenario: Scenario) -> str:
        assert (running.listens, entry.takes_part(scenario)) == ("127.0.0.1:1", True)
        self._looks += entry.name == self._bad
        return "wrong" if entry.name == self._bad and self._looks >= self._from_look else ""


def turn_by_turn(script: Scripted, *entries: Entry, scenario: Scenario = SMALL) -> list[Run]:
    running = {one: Running("127.0.0.1:1") for one in entries}
    return list(interleaved(script, running, [scenario], 2, 3, lambda _: None))


def test_proxies_take_turns(tmp_path: Path) -> None:
    script = Scripted(tmp_path)
    runs = turn_by_turn(script, entry("a"), entry("b"))
    assert script.turns == ["small 0 a", "small 0 b", "small 1 a", "small 1 b", "small 2 a",
                            "small 2 b"]  # fmt: skip
    assert [(run.round, run.peer) for run in runs] == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]


def test_who_answers_wrongly_is_not_measured(tmp_path: Path) -> None:
    script = Scripted(tmp_path, bad="b")
    runs = turn_by_turn(script, entry("a"), entry("b"))
    assert Run("small", "b", 0, "wrong") in runs
    assert not any(turn.endswith(" b") for turn in script.turns)


def test_who_answers_wrongly_afterwards_is_found_out(tmp_path: Path) -> None:
    runs = turn_by_turn(Scripted(tmp_path, bad="b", from_look=2), entry("a"), entry("b"))
    assert runs[-1] == Run("small", "b", 0, "wrong")


def test_some_take_part_in_some_only(tmp_path: Path) -> None:
    script = Scripted(tmp_path)
    turn_by_turn(script, entry("a"), entry("up", only=("small",)), scenario=CLOSING)
    assert script.turns == ["close 0 a", "close 1 a", "close 2 a"]
