"""h1spec (uNetworking/h1spec): 33 requests, whole or cut off, and the status each has to get.

It needs deno, and backends that echo: the nginx of a stack answers its two POST cases with 405.

    python -m tests.conformance.h1spec --checkout DIR --target lbctl --target haproxy
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from tests.conformance import targets

if TYPE_CHECKING:
    from pathlib import Path

GOALS = {"echo": 32, "stack": 30}
"""Cases to pass, by what is behind the proxy."""
_RESULT = re.compile(r"(\d+) out of (\d+) tests passed")
_WITHIN_S = 60.0


def judge(target: targets.Target, checkout: Path, deno: str) -> int:
    """Runs the suite, prints what did not pass; returns how many cases did."""
    script = str(checkout / "http_test.ts")
    command = [deno, "run", f"--allow-net={target.address}", script, *map(str, target.address)]
    printed = targets.run(command, within_s=_WITHIN_S)
    result = _RESULT.search(printed)
    if result is None:
        raise SystemExit(f"h1spec did not finish:\n{printed}")
    print(f"{target.name}: {result[1]} of {result[2]}")
    for line in printed.splitlines():
        if line.startswith("❌"):
            print(f"  failed: {line[1:].strip()}")
    return int(result[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkout", type=targets.existing, required=True, help="where h1spec is")
    parser.add_argument("--deno", default="deno", help="the deno command")
    parser.add_argument(
        "--backends", choices=GOALS, default="echo", help="what is behind the proxies"
    )
    targets.add_target_option(parser)
    options = parser.parse_args()
    deno = targets.program(options.deno)
    goal = GOALS[options.backends]
    missed = False
    with targets.each(targets.chosen(options), backends=options.backends) as started:
        for target in started:
            passed = judge(target, options.checkout, deno)
            missed |= passed < goal and target.name not in targets.PEERS
    return int(missed)


if __name__ == "__main__":
    targets.entry(main)
