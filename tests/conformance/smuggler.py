"""smuggler (defparam/smuggler): heads that disguise Transfer-Encoding beside a Content-Length.

Each mutation is sent twice, with bodies that end too early for one of the two readings; where a
proxy and its backend disagree, one of them waits. A finding is a request that is left without an
answer three times, while its twin, whose body is whole in both readings, is answered.

The backends have to read bodies to their end, or there is nothing to wait for: they echo.

    python -m tests.conformance.smuggler --checkout DIR --target lbctl --target haproxy
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.conformance import targets

_OUTCOME = re.compile(r"^\[([\w-]+)\] *: (.*)$", re.MULTILINE)
_STATUSES = re.compile(r"OK \(TECL: [\d.]+ - (\S*)\) \(CLTE: [\d.]+ - (\S*)\)")
_FINDING = "Issue Found"
_WHERE_IT_IS = "CRITICAL"  # says after a finding in which file its bytes are
_SILENCE_S = 5  # after which smuggler takes a request for unanswered; its own default


def outcomes(log: str) -> dict[str, str]:
    """What smuggler said of each mutation, in a few words."""
    said: dict[str, str] = {}
    for name, text in _OUTCOME.findall(log):
        if name == _WHERE_IT_IS:
            continue
        statuses = _STATUSES.match(text)
        said[name] = f"answered {statuses[1]} and {statuses[2]}" if statuses else text.strip()
    return said


def judge(target: targets.Target, options: argparse.Namespace) -> int:
    """Runs the suite and prints a summary; returns the number of findings."""
    url = f"http://{target.address}/"
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        command = [sys.executable, "smuggler.py", "--no-color", "-u", url, "-l", str(log)]
        command += ["-c", options.set, "-t", str(_SILENCE_S)]
        printed = targets.run(command, directory=options.checkout, within_s=options.within)
        said = outcomes(log.read_text(encoding="utf-8"))
    if not said:
        raise SystemExit(f"smuggler tried nothing:\n{printed}")
    findings = [name for name, text in said.items() if _FINDING in text]
    print(f"{target.name}: {len(said)} mutations, {len(findings)} findings")
    for text, count in Counter(said.values()).most_common():
        names = [name for name, each in said.items() if each == text]
        print(f"  {count:4} {text}: {', '.join(names[:4])}{' ...' if count > 4 else ''}")
    return len(findings)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--checkout", type=targets.existing, required=True, help="where smuggler is"
    )
    parser.add_argument("--set", default="default.py", help="file of mutations")
    parser.add_argument("--within", type=float, default=900, help="seconds for one target")
    targets.add_target_option(parser)
    options = parser.parse_args()
    found = False
    with targets.each(targets.chosen(options)) as started:
        for target in started:
            findings = judge(target, options)
            found |= bool(findings) and target.name not in targets.PEERS
    return int(found)


if __name__ == "__main__":
    targets.entry(main)
