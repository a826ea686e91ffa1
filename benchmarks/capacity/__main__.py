"""What one worker carries, and what connections and backends cost.

    python -m benchmarks.capacity                   # a quarter of an hour, on a quiet machine
    python -m benchmarks.capacity --quick --write build/capacity

One CPU is the lb's, the others are wrk's and the backends'. Writes capacity.md and capacity.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.alone import allow_files, ended
from benchmarks.capacity import crowd, report
from benchmarks.capacity.carrying import TARGET, Carrier
from benchmarks.capacity.results import Results
from benchmarks.compare import backends, machine
from benchmarks.compare.balancer import PROJECT
from benchmarks.compare.processes import Place, cores, refuse_taken, scratch
from benchmarks.compare.procfs import read_machine_ticks

if TYPE_CHECKING:
    from collections.abc import Sequence

_ADDRESS = "127.77.5.1"
_SPARE_FILES = 256
_LISTENING_AT_ONCE = 2  # sockets of the nginx, a backend


def main(words: Sequence[str]) -> int:
    """Raises LbctlError."""
    options = _options(words)
    clients = [int(count) for count in options.clients.split(",")]
    crowds = [int(count) for count in options.backends.split(",")]
    allow_files(max(*clients, _LISTENING_AT_ONCE * max(crowds)) + _SPARE_FILES)
    results = _measured(options, clients, crowds)
    options.write.mkdir(parents=True, exist_ok=True)
    document = json.dumps(asdict(results), indent=1)
    (options.write / "capacity.json").write_text(document + "\n", encoding="utf-8")
    (options.write / "capacity.md").write_text(report.text(results), encoding="utf-8")
    print(report.text(results))
    return 0


def _measured(options: argparse.Namespace, clients: list[int], crowds: list[int]) -> Results:
    usable = cores()
    busy = os.getloadavg()[0]
    ticks = read_machine_ticks()
    with scratch() as directory:
        origins = directory / "origins"
        files = {TARGET: backends.contents()[TARGET]}
        with backends.running(origins, usable.load, files) as addresses:
            place = Place(directory / "lb", _ADDRESS, addresses, Path(), usable)
            place.directory.mkdir(mode=0o711)
            refuse_taken([place.listens])
            carrier = Carrier(place, options.python, options.rounds, options.seconds, _tell)
            carried = list(carrier.carried())
            resting = list(carrier.resting(clients, clients[0]))
        rows = []
        for count in crowds:
            _tell(f"{count} backends")
            here = directory / f"crowd-{count}"
            rows.append(
                crowd.measured(here, _ADDRESS, usable, options.python, count, options.changes)
            )
        return Results(
            day=f"{datetime.now(UTC):%Y-%m-%d}",
            lbctl=machine.lbctl_version(),
            machine=replace(machine.look(), stolen=read_machine_ticks().stolen_since(ticks)),
            interpreter=machine.interpreter(options.python, directory),
            quick=options.quick,
            busy=busy,
            rounds=options.rounds,
            seconds=options.seconds,
            carried=carried,
            resting=resting,
            crowds=rows,
        )


def _tell(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity", description="The figures to plan by."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="see that it works: few, short rounds")
    add("--rounds", type=int, help="[5; 1]")
    add("--seconds", type=int, help="a round [10; 2]")
    add("--clients", help="idle ones, at a time [1000,5000; 200,500]")
    add("--backends", help="in rotation [3,50,200,1000; 3,50]")
    add("--changes", type=int, help="drains and undrains, at each number of backends [10; 2]")
    add("--write", type=Path, default=PROJECT / "docs" / "benchmarks", help="where [%(default)s]")
    add("--python", default=sys.executable, help="the interpreter that runs lbctl [this one]")
    options = parser.parse_args(words)
    usual = {
        "rounds": (5, 1),
        "seconds": (10, 2),
        "clients": ("1000,5000", "200,500"),
        "backends": ("3,50,200,1000", "3,50"),
        "changes": (10, 2),
    }
    for name, values in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, values[options.quick])
    return options


if __name__ == "__main__":
    sys.exit(ended(lambda: main(sys.argv[1:])))
