"""Sessions in the documents, run as they stand: what is typed after `$ `, and what came back.

Figures, and who of several answers, differ from run to run, so two answers are alike when they
differ in nothing but their `shape`. Shares (`100 127.42.0.1`) that a session shows as equal have to
be the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from tests.support.cli import Cli

ROOT = Path(__file__).parents[2]
_INDENT = "    "

ON_LOCAL = {"docs/balancing.md", "docs/operations.md", "docs/tokens.md"}
ON_DOCKER = {"README.md"}
ELSEWHERE = {
    "docs/history.md",  # needs a stack of yesterday; tests/*/test_history.py ask the same
    "docs/quickstart.md",  # the README's
    "docs/verify.md",  # tests/*/test_verify.py run it
}
"""All documents with sessions, and who runs them."""


class Exchange(NamedTuple):
    """One command, with the number of its line in the document, and the lines it printed."""

    line: int
    command: str
    answer: list[str]


def exchanges(text: str) -> list[Exchange]:
    """Those of a document in Markdown, in order; blank lines of answers are left out.

    A session is an indented block whose first line begins with `$ `. A command goes on past a
    backslash at the end of a line, and to the end of a here-document.
    """
    found: list[Exchange] = []
    lines = iter(enumerate(text.splitlines(), start=1))
    inside = False
    for number, line in lines:
        if line and not line.startswith(_INDENT):
            inside = False
            continue
        said = line.removeprefix(_INDENT)
        if said.startswith("$ "):
            inside = True
            command = said.removeprefix("$ ")
            here = re.search(r"<<'(\w+)'", command)
            while command.endswith("\\") or (here and not command.endswith(f"\n{here[1]}")):
                _, more = next(lines)
                command += "\n" + more.removeprefix(_INDENT)
            found.append(Exchange(number, command, []))
        elif inside and said:
            found[-1].answer.append(said)
    return found


def shape(line: str) -> str:
    """A line without what another run may have differently: measured figures, and in a table (four
    columns and more) and before a share all numbers. How many were asked for stays.
    """
    if shares([line]) or len(re.split(r"\s{2,}", line.strip())) > 3:
        line = re.sub(r"(?<![\w.:/-])\d+(?=s?\b(?![.:]))", "#", line)
    line = re.sub(r"\b(?!127\.)\d+(?:\.\d+){3}\b(?!:)", "ADDRESS", line)
    line = re.sub(r"\b(127\.(?!0\.0\.1:)\d+\.\d+)\.\d+\b", r"\1.#", line)
    line = re.sub(r"\b[0-9a-f]{16}\b", "DIGEST", line)
    line = re.sub(r"\b\d+\.\d+(?= (s|ms)\b|$|\s{2,})", "#", line)
    line = re.sub(r"\bgeneration \d+", "generation #", line)
    line = re.sub(r"\bbackend-\d+\b", "backend-#", line)
    line = re.sub(r"(?<=\s)-(?=\s)", "#", line)  # a table's figure that there is none of
    line = re.sub(r"\blb [ab] leads", "lb # leads", line)
    return re.sub(r"\s+", " ", line).strip()


def shares(lines: list[str]) -> list[int]:
    """The counts, if every line is a count and a backend (`uniq -c`)."""
    found = [re.fullmatch(r"\s*(\d+) 127\.\S+", line) for line in lines]
    return [int(one[1]) for one in found if one] if all(found) else []


def differences(documented: list[str], printed: list[str]) -> list[str]:
    """What is wrong with an answer, for people; [] if it is the documented one."""
    lines = [line for line in printed if line.strip()]
    one, other = [shape(line) for line in documented], [shape(line) for line in lines]
    if one != other:
        return [f"documented: {line}" for line in documented] + [f"printed:    {x}" for x in lines]
    counts = shares(documented)
    if len(counts) > 1 and all(a == b for a, b in pairwise(counts)) and shares(lines) != counts:
        return [f"shares: {counts} in the document, {shares(lines)} here"]
    return []


def addresses_of(cli: Cli) -> dict[str, str]:
    """What the documents call the ports of a stack, and where they are here."""
    documented = {8080: cli.port, 9900: cli.admin_port}
    return {f"127.0.0.1:{port}": f"127.0.0.1:{here}" for port, here in documented.items()}


def play(
    document: str, settings: dict[str, str], here: dict[str, str], where: Path, within: float
) -> list[str]:
    """Run a document's sessions in one bash, one after the other; returns what differed.

    A session that starts a stack ends the one before; the first one finds a stack if it starts
    none. `here` is what is called otherwise in this run: what stands in the document, and what
    it is here. Raises subprocess.TimeoutExpired.
    """
    played = exchanges((ROOT / document).read_text(encoding="utf-8"))
    assert played, f"{document} has no session"
    # The tests are started by a make of their own, of which the reader's knows nothing.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LBCTL_")} | settings
    environment = {k: v for k, v in inherited.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    wrong = []
    with tempfile.TemporaryDirectory() as directory:
        starts = re.match(r"(lbctl|make) up", played[0].command)
        script = [] if starts else ["lbctl up > /dev/null 2>&1"]
        for number, (_, command, _) in enumerate(played):
            if command.startswith("lbctl up"):
                script.append("lbctl down > /dev/null 2>&1")
            for documented, actual in here.items():
                command = command.replace(documented, actual)
            script += [f"exec > {directory}/{number} 2>&1", command]
            script.append('status=$?; [ $status = 0 ] || echo "exit status $status"')
        subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=where, env=environment, stdin=subprocess.DEVNULL, timeout=scaled(within),
            check=False,
        )  # fmt: skip
        for number, (line, command, answer) in enumerate(played):
            text = Path(directory, str(number)).read_text(encoding="utf-8")
            for documented, actual in here.items():
                text = text.replace(actual, documented)
            # What `lbctl up` shows to type next is what the document has next.
            lines = text.splitlines()
            printed = list(takewhile(lambda line: not line.startswith("$ "), lines))
            printed += [one for one in lines[len(printed) :] if one.startswith("exit status ")]
            found = differences(answer, printed)
            if found and (answer or "lbctl up" not in command or "exit status" in text):
                wrong += [f"{document}:{line}: {command}", *found]
    return wrong
