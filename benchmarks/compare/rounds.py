"""The measuring: every proxy once a round, A B C, A B C, so that what changes on the machine
meanwhile changes for all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.compare import answers, wrk
from benchmarks.compare.processes import pinned
from benchmarks.compare.procfs import read_connections_opened, read_tree, spent
from benchmarks.compare.results import Run
from lbctl.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.compare.entries import Entry
    from benchmarks.compare.processes import Running
    from benchmarks.compare.scenarios import Scenario

WARM_UP_S = 1
_MOST = 0.95  # of the requests have opened a connection, where all should: some are under way


class Measurer:
    """Runs the load. `served` counts the requests that each entry has answered, load or check."""

    def __init__(self, directory: Path, cpus: Sequence[int], contents: Mapping[str, bytes]) -> None:
        self._directory = directory
        self._cpus = cpus
        self._contents = contents
        self.served: dict[str, int] = {}

    def command(self, scenario: Scenario, running: Running, seconds: int) -> list[str]:
        """wrk's, for `scenario` against this proxy."""
        script = self._directory / f"{scenario.name}.lua"
        if not script.exists():
            text = wrk.script(
                method=scenario.method, body_bytes=scenario.body_bytes, varied=scenario.varied
            )
            script.write_text(text, encoding="utf-8")
        target, _ = running.own.get(scenario.target, (scenario.target, b""))
        url = f"http://{running.listens}{target}"
        argv = wrk.command(url, scenario.connections, seconds, str(script), close=scenario.close)
        return pinned(self._cpus, argv)

    def measure(
        self, entry: Entry, running: Running, scenario: Scenario, number: int, seconds: int
    ) -> Run:
        """One turn. What goes wrong is the result's problem."""

        def failed(problem: str) -> Run:
            return Run(scenario.name, entry.name, number, problem)

        opened = read_connections_opened()
        before = read_tree(running.pid, running.skip) if running.pid else {}
        try:
            load = wrk.run(self.command(scenario, running, seconds), seconds)
        except OperationError as error:
            return failed(str(error))
        after = read_tree(running.pid, running.skip) if running.pid else {}
        opened = read_connections_opened() - opened
        self.served[entry.name] = self.served.get(entry.name, 0) + load.requests
        if load.errors:
            kinds = ", ".join(f"{count} {kind}" for kind, count in load.errors.items())
            return failed(f"errors: {kinds}")
        if not load.requests:
            return failed("no answer")
        if scenario.close and opened < load.requests * _MOST:
            return failed(f"{opened} connections for {load.requests} requests")
        cpu_s = busiest_s = None
        if running.pid:
            try:
                cost = spent(before, after)
            except ValueError as error:
                return failed(str(error))
            cpu_s, busiest_s = cost.total_s, cost.busiest_s
        return Run(
            scenario.name, entry.name, number, "", load.requests, load.duration_s, load.bytes,
            load.p50_us, load.p99_us, load.p999_us, cpu_s, busiest_s,
        )  # fmt: skip

    def wrong(self, entry: Entry, running: Running, scenario: Scenario) -> str:
        """What is wrong with its answers, if anything."""
        target, wanted = running.own.get(
            scenario.target, (scenario.target, self._contents[scenario.target])
        )
        self.served[entry.name] = self.served.get(entry.name, 0) + 1
        try:
            answers.check(running.listens, replace(scenario, target=target), wanted)
        except answers.WrongAnswerError as error:
            return str(error)
        return ""


def interleaved(
    measurer: Measurer,
    running: Mapping[Entry, Running],
    scenarios: Sequence[Scenario],
    rounds: int,
    seconds: int,
    tell: Callable[[str], None],
) -> Iterator[Run]:
    """All runs as they are done. `tell` is told of each turn before it.

    An entry whose answers are wrong, before the rounds of a scenario or after them, has one run
    without a round's number (0) that says so, and no other that counts.
    """
    for scenario in scenarios:
        able: list[Entry] = []
        for entry in filter(lambda one: one.takes_part(scenario), running):
            tell(f"{scenario.name}: is it right? {entry.title}")
            problem = measurer.wrong(entry, running[entry], scenario)
            if problem:
                yield Run(scenario.name, entry.name, 0, problem)
                continue
            measurer.measure(entry, running[entry], scenario, 0, WARM_UP_S)
            able.append(entry)
        for number in range(1, rounds + 1):
            for entry in able:
                tell(f"{scenario.name}: round {number}: {entry.title}")
                yield measurer.measure(entry, running[entry], scenario, number, seconds)
        for entry in able:
            problem = measurer.wrong(entry, running[entry], scenario)
            if problem:
                yield Run(scenario.name, entry.name, 0, problem)
