"""Autobahn's WebSocket fuzzing client (crossbario/autobahn-testsuite), with and without a proxy.

What a proxy owes WebSocket is to change nothing. So the suite runs twice against the same server,
its own testee: directly, then through the proxy, and every case has to end alike. It needs a
Python 2.7 in which the suite's requirements are installed.

    python -m tests.conformance.autobahn --checkout DIR --python2 PYTHON --target lbctl
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from tests.conformance import targets
from tests.support.cli import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GROUPS = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*")
_PACKAGE = "autobahntestsuite"

# wstest's own way to start it listens on all addresses, also on those of the proxies; and given
# a URL, it refuses a Host header with another port than its own, which is what a proxy hands on.
_TESTEE = """
import sys
from twisted.internet import reactor
from autobahntestsuite.testee import TesteeServerFactory
reactor.listenTCP(int(sys.argv[2]), TesteeServerFactory(None), interface=sys.argv[1])
reactor.run()
"""


class Outcome(NamedTuple):
    """How a case ended. Its duration and the reason given in words are left out."""

    behavior: str
    closing: str
    close_code: int | None


class Suite:
    """The suite's command, and where it works."""

    def __init__(self, python2: str, checkout: Path, directory: Path) -> None:
        self._python = [python2, "-W", "ignore"]
        self._environment = {"PYTHONPATH": str(checkout.absolute() / _PACKAGE)}
        self._directory = directory

    @contextmanager
    def testee(self) -> Iterator[targets.Address]:
        """The suite's own echoing server."""
        address = targets.Address("127.0.0.1", free_port())
        command = [*self._python, "-c", _TESTEE, *map(str, address)]
        log = self._directory / "testee.log"
        with targets.running(command, log=log, environment=self._environment):
            targets.serving(address, log)
            yield address

    def fuzz(self, target: targets.Target, cases: list[str], within_s: float) -> dict[str, Outcome]:
        """The outcome of each case against the target."""
        name = re.sub(r"\W", "-", target.name)
        reports = self._directory / name
        specification = self._directory / f"{name}.json"
        server = {"agent": name, "url": f"ws://{target.address}"}
        document = {
            "outdir": str(reports),
            "servers": [server],
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        specification.write_text(json.dumps(document), encoding="utf-8")
        command = [*self._python, "-m", f"{_PACKAGE}.wstest", "-m", "fuzzingclient"]
        command += ["-s", str(specification)]
        printed = targets.run(command, environment=self._environment, within_s=within_s)
        index = reports / "index.json"
        if not index.is_file():
            raise SystemExit(f"the fuzzing client did not finish:\n{printed[-2000:]}")
        return {
            case: Outcome(row["behavior"], row["behaviorClose"], row["remoteCloseCode"])
            for case, row in json.loads(index.read_bytes())[name].items()
        }


def compare(name: str, direct: dict[str, Outcome], through: dict[str, Outcome]) -> int:
    """Prints the difference; returns the number of cases that ended otherwise."""
    cases = sorted(direct.keys() | through.keys(), key=lambda case: [*map(int, case.split("."))])
    differing = [case for case in cases if direct.get(case) != through.get(case)]
    kinds = Counter(outcome.behavior for outcome in through.values())
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    print(f"{name}: {len(through)} cases ({said}), {len(differing)} differ from the direct run")
    for case in differing:
        print(f"  {case}: directly {direct.get(case)}, through {name} {through.get(case)}")
    return len(differing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--checkout", type=targets.existing, required=True, help="where the suite is"
    )
    parser.add_argument("--python2", required=True, help="a Python 2.7 with its requirements")
    parser.add_argument("--cases", action="append", help=f"default: {' '.join(_GROUPS)}")
    parser.add_argument("--within", type=float, default=1800, help="seconds for one run")
    targets.add_target_option(parser)
    options = parser.parse_args()
    cases = options.cases or list(_GROUPS)
    differs = False
    with targets.scratch() as directory:
        suite = Suite(targets.program(options.python2), options.checkout, directory)
        with suite.testee() as address:
            direct = suite.fuzz(targets.Target("direct", address), cases, options.within)
            compare("direct", direct, direct)
            for name in targets.chosen(options):
                with targets.target(name, [address]) as target:
                    through = suite.fuzz(target, cases, options.within)
                differing = compare(name, direct, through)
                differs |= bool(differing) and name not in targets.PEERS
    return int(differs)


if __name__ == "__main__":
    targets.entry(main)
