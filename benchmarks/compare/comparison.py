"""One whole comparison: backends, proxies, load, and what it all was."""

from __future__ import annotations

import contextlib
import os
import shlex
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.compare import backends, machine
from benchmarks.compare.entries import (
    command_line,
    entries,
    placeheld,
    placeholders,
    version,
)
from benchmarks.compare.processes import (
    Place,
    Running,
    cores,
    environment,
    refuse_taken,
    scratch,
)
from benchmarks.compare.procfs import read_machine_ticks
from benchmarks.compare.results import Peer, Results, Run
from benchmarks.compare.rounds import Measurer, interleaved
from benchmarks.compare.scenarios import SCENARIOS
from lbctl.errors import LbctlError, OperationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.compare.entries import Entry
    from benchmarks.compare.processes import Cores
    from benchmarks.compare.scenarios import Scenario
    from benchmarks.compare.screen import Screen


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure. `only` and `scenarios` are names, None for all; `python` runs lbctl;
    `tools` is where to look for the peers' programs first.
    """

    rounds: int
    seconds: int
    python: str
    tools: Path
    only: Sequence[str] | None = None
    scenarios: Sequence[str] | None = None
    container: bool = False


@dataclass(slots=True)
class _Row:
    """What becomes of an entry."""

    entry: Entry
    place: Place
    peer: Peer
    running: Running | None = None


class Comparison:
    """One run of everything."""

    def __init__(self, options: Options, screen: Screen) -> None:
        """Raises UsageError for a name that is none."""
        self._options = options
        self._screen = screen
        self._entries = entries(options.python, container=options.container)
        self._wanted = _chosen("--only", options.only, [one.name for one in self._entries])
        names = _chosen("--scenarios", options.scenarios, [one.name for one in SCENARIOS])
        self._scenarios = [one for one in SCENARIOS if one.name in names]

    def run(self) -> Results:
        """Raises MachineError where nothing can be measured at all."""
        usable = cores()
        with scratch() as directory, contextlib.ExitStack() as cleanup:
            interpreter = machine.interpreter(self._options.python, directory)
            os.sched_setaffinity(0, usable.load)  # this process reads the access logs
            contents = backends.contents()
            origins = cleanup.enter_context(backends.running(directory / "origins", usable.load))
            rows = self._rows(directory, origins, usable)
            for needed in ("taskset", "wrk"):
                rows[0].place.program(needed)
            refuse_taken([row.place.listens for row in rows])
            for row in rows:
                self._start(row, cleanup)
            running = {row.entry: row.running for row in rows if row.running}
            if not running:
                raise OperationError("there is no proxy to measure")
            measurer = Measurer(directory, usable.load, contents)
            before = read_machine_ticks()
            runs = self._measure(measurer, running)
            stolen = read_machine_ticks().stolen_since(before)
            places = {str(directory): "DIR"}
            first = rows[0].place
            return Results(
                day=f"{datetime.now(UTC):%Y-%m-%d}",
                lbctl=machine.lbctl_version(),
                machine=replace(machine.look(), stolen=round(stolen, 4)),
                interpreter=interpreter,
                rounds=self._options.rounds,
                seconds=self._options.seconds,
                proxy_cpu=usable.proxy,
                load_cpus=list(usable.load),
                scenarios={one.name: one.title for one in self._scenarios},
                wrk={
                    one.name: placeheld(shlex.join(self._example(measurer, one)), places)
                    for one in self._scenarios
                },
                wrk_version=version(first.program("wrk"), ["--version"], os.environ),
                backends=backends.configuration(
                    Path("DIR"), Path("DIR/www"), backends.ADDRESSES[0]
                ),
                peers=[_told(row, measurer) for row in rows],
                runs=runs,
            )

    def _rows(self, directory: Path, origins: Sequence[str], usable: Cores) -> list[_Row]:
        """Every entry has its address whoever else takes part: figures name no other."""
        rows = []
        for number, entry in enumerate(self._entries, 1):
            if entry.name in self._wanted:
                home = directory / entry.name
                place = Place(home, f"127.77.2.{number}", origins, self._options.tools, usable)
                rows.append(_Row(entry, place, Peer(entry.name, entry.title, entry.reference)))
        return rows

    def _start(self, row: _Row, cleanup: contextlib.ExitStack) -> None:
        """What cannot be had is left out, and said to be."""
        entry, place = row.entry, row.place
        self._screen.say(f"starting {entry.title}")
        try:
            plan = entry.plan(place)
            row.running = cleanup.enter_context(entry.serve(plan, place))
        except LbctlError as error:
            row.peer = replace(row.peer, left_out=str(error).replace("\n", "; "))
            self._screen.fail(f"{entry.title} is left out: {error}")
            return
        places = placeholders(place, self._options.python)
        row.peer = replace(
            row.peer,
            version=version(plan.argv[0], entry.version, environment(plan, place))
            if plan.argv
            else "",
            command=command_line(plan, place, places),
            files={name: placeheld(text, places) for name, text in plan.files.items()},
        )

    def _measure(self, measurer: Measurer, running: Mapping[Entry, Running]) -> list[Run]:
        turns = sum(
            self._options.rounds + 1
            for scenario in self._scenarios
            for entry in running
            if entry.takes_part(scenario)
        )
        rounds, seconds = self._options.rounds, self._options.seconds
        with self._screen.turns(turns) as tell:
            return list(interleaved(measurer, running, self._scenarios, rounds, seconds, tell))

    def _example(self, measurer: Measurer, scenario: Scenario) -> list[str]:
        """wrk's command line, whichever the proxy."""
        return measurer.command(scenario, Running("PROXY:8080"), self._options.seconds)


def _chosen(option: str, names: Iterable[str] | None, known: Sequence[str]) -> set[str]:
    if names is None:
        return set(known)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UsageError(f"{option}: {', '.join(unknown)}: not one of {', '.join(known)}")
    return set(names)


def _told(row: _Row, measurer: Measurer) -> Peer:
    """With what its access log has, now that all is over."""
    served = measurer.served.get(row.entry.name, 0)
    if row.running is None or row.running.lines is None or not served:
        return row.peer
    return replace(row.peer, lines_per_request=round(row.running.lines() / served, 4))
