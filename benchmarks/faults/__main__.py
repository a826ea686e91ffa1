"""`python -m benchmarks.faults`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from benchmarks.compare import machine
from benchmarks.compare.balancer import PROJECT
from benchmarks.compare.processes import end_properly
from benchmarks.faults import report
from benchmarks.faults.disturbances import DISTURBANCES
from benchmarks.faults.engine import docker
from benchmarks.faults.entries import NAMES, entry
from benchmarks.faults.results import Cell, Column, Conditions, Results, from_document, to_document
from benchmarks.faults.run import Timing, run
from lbctl.cli.screen import Screen
from lbctl.errors import LbctlError, MachineError, OperationError
from lbctl.runtime.containers import BACKEND_IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.faults.disturbances import Disturbance
    from benchmarks.faults.stacks import Entry

PUBLISHED = PROJECT / "docs" / "benchmarks"
TOOLS = PROJECT / "build" / "bench" / "bin"


def main(words: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 1 failed, 2 wrong usage, 3 the machine lacks something."""
    options = _parser().parse_args(words)
    end_properly()
    screen = Screen()
    try:
        older = _read(options.out / report.RAW)
        if options.render:
            results = older
            if results is None:
                raise OperationError(f"there is no {report.RAW} in {options.out}")
        else:
            results = _measure(options, screen).over(older)
        _write(results, options.out)
    except KeyboardInterrupt:
        return 130
    except LbctlError as error:
        for line in str(error).splitlines():
            screen.tell(line, "bold red")
        return error.exit_status
    screen.tell(f"written to {os.path.relpath(options.out)}")
    problems = any(cell.problem for one in results.columns.values() for cell in one.cells.values())
    return int(problems)


def _parser() -> argparse.ArgumentParser:
    disturbances = [one.name for one in DISTURBANCES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description="The same faults for lbctl and its peers, under the same steady load.",
    )
    add = parser.add_argument
    add("--only", type=_some_of(NAMES), default=NAMES, metavar="A,B", help=f"of {_list(NAMES)}")
    add(
        "--disturbances", type=_some_of(disturbances), default=disturbances, metavar="A,B",
        help=f"of {_list(disturbances)}",
    )  # fmt: skip
    add("--rounds", type=int, choices=range(1, 101), default=1, metavar="N", help="[%(default)s]")
    add("--tools", type=Path, default=TOOLS, metavar="DIR", help="where to look for peers first")
    add(
        "--out", type=Path, default=PUBLISHED, metavar="DIR",
        help="where to write; cells there that are not run now stay, if they were run on the "
        "same machine and version [docs/benchmarks]",
    )  # fmt: skip
    add("--render", action="store_true", help=f"run nothing: {report.DOCUMENT} of {report.RAW}")
    return parser


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A type for argparse: names with commas between, each of them known."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {_list(known)}")
        return names

    return parse


def _measure(options: argparse.Namespace, screen: Screen) -> Results:
    """Raises MachineError before anything is run if something is missing."""
    entries = [entry(name, options.tools) for name in options.only]
    disturbances = [one for one in DISTURBANCES if one.name in options.disturbances]
    engine = docker("version", "--format", "{{.Server.Version}}")
    _require_image()
    timing = Timing()
    conditions = Conditions(
        machine.look(), engine, timing.connections, timing.rate_per_s, timing.watch_s
    )
    columns = {}
    for one in entries:
        cells = {
            disturbance.name: _cell(one, disturbance, timing, options.rounds, screen)
            for disturbance in disturbances
        }
        today = datetime.now().astimezone().date().isoformat()
        columns[one.name] = Column(one.title, one.version, today, cells)
    return Results(conditions, columns)


def _require_image() -> None:
    try:
        docker("image", "inspect", BACKEND_IMAGE)
    except OperationError:
        raise MachineError(
            f"there is no image {BACKEND_IMAGE}: `lbctl up` makes it, and so does "
            "`python -m tests.support.images`"
        ) from None


def _cell(
    entry: Entry, disturbance: Disturbance, timing: Timing, rounds: int, screen: Screen
) -> Cell:
    told = f"{entry.title}, {disturbance.title}"
    if lacks := entry.lacks.get(disturbance.name, ""):
        screen.tell(f"{told}: n/a, {lacks}")
        return Cell([], lacks=lacks)
    found = []
    for _ in range(rounds):
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                figures = runner.run(run(entry.make(), disturbance, timing))
        except OperationError as error:
            # One round that went wrong says that the others are not to be trusted either.
            screen.tell(f"{told}: {error}", "bold red")
            return Cell([], problem=str(error))
        found.append(figures)
        screen.tell(
            f"{told}: {figures.lost} of {figures.requests} lost, gap {figures.longest_gap_s:.2f} s,"
            f" slowest {figures.slowest_s:.2f} s, trouble for {figures.trouble_s:.2f} s"
        )
    return Cell(found)


def _read(path: Path) -> Results | None:
    try:
        return from_document(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise OperationError(f"{path} is not of this version: remove it") from None


def _write(results: Results, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    raw = json.dumps(to_document(results), indent=1) + "\n"
    (out / report.RAW).write_text(raw, encoding="utf-8")
    (out / report.DOCUMENT).write_text(report.render(results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
