"""`python -m benchmarks.compare`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.compare import chart, report
from benchmarks.compare.balancer import PROJECT
from benchmarks.compare.comparison import Comparison, Options
from benchmarks.compare.entries import entries
from benchmarks.compare.processes import end_properly
from benchmarks.compare.results import from_document, to_document
from benchmarks.compare.scenarios import SCENARIOS
from benchmarks.compare.screen import Screen
from lbctl.errors import LbctlError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.compare.results import Results

PUBLISHED = PROJECT / "docs" / "benchmarks"
PARTIAL = PROJECT / "build" / "benchmarks"
TOOLS = PROJECT / "build" / "bench" / "bin"
_ROUNDS = 7
_SECONDS = 3


def main(words: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 1 failed, 2 wrong usage, 3 the machine lacks something."""
    options = _parser().parse_args(words)
    end_properly()
    screen = Screen()
    try:
        if options.render:
            results = from_document(json.loads((options.render / report.RAW).read_bytes()))
            out = options.out or options.render
        else:
            results = Comparison(_wish(options), screen).run()
            out = options.out or (PUBLISHED if _is_whole(options) else PARTIAL)
        _write(results, out)
        screen.show(results)
    except KeyboardInterrupt:
        return 130
    except LbctlError as error:
        screen.fail(str(error))
        return error.exit_status
    except OSError as error:
        screen.fail(f"{error.filename}: {error.strerror}")
        return 1
    screen.say(f"written to {os.path.relpath(out)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description="Every proxy in turn, several rounds: what a request costs each of them.",
        epilog=f"kinds of load: {', '.join(one.name for one in SCENARIOS)}; "
        f"proxies: {', '.join(one.name for one in entries('', container=True))}",
    )
    add = parser.add_argument
    add("--rounds", type=_positive, default=_ROUNDS, help="[%(default)s]")
    add("--seconds", type=_positive, default=_SECONDS, help="of load a turn [%(default)s]")
    add("--only", type=_names, metavar="A,B", help="these proxies")
    add("--scenarios", type=_names, metavar="A,B", help="these kinds of load")
    add("--quick", action="store_true", help="one round of one second: does it work?")
    add(
        "--python",
        default=sys.executable,
        metavar="PATH",
        help="the interpreter that runs lbctl; of this one's version [this one]",
    )
    add(
        "--container",
        action="store_true",
        help="also lbctl in its container, and HAProxy in the same position",
    )
    add("--tools", type=Path, default=TOOLS, metavar="DIR", help="where to look for peers first")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write [docs/benchmarks; build/benchmarks if not everything was measured]",
    )
    add(
        "--render",
        type=Path,
        metavar="DIR",
        help=f"measure nothing: write report and chart of the {report.RAW} there again",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _wish(options: argparse.Namespace) -> Options:
    return Options(
        rounds=1 if options.quick else options.rounds,
        seconds=1 if options.quick else options.seconds,
        python=options.python,
        tools=options.tools,
        only=options.only,
        scenarios=options.scenarios,
        container=options.container,
    )


def _is_whole(options: argparse.Namespace) -> bool:
    """What is not must not take the place of published figures."""
    return not (options.quick or options.only or options.scenarios)


def _write(results: Results, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_document(results), indent=1) + "\n"
    (out / report.RAW).write_text(text, encoding="utf-8")
    (out / report.CHART).write_text(chart.render(results), encoding="utf-8")
    readme = report.render(results, notes=(out / report.NOTES).exists())
    (out / "README.md").write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
