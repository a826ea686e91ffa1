"""`python -m lbctl.cli.reference`: docs/configuration.md, from the leaves of the configuration."""

from __future__ import annotations

import inspect
import sys
from itertools import groupby
from typing import TYPE_CHECKING, get_type_hints

from lbctl.cli.options import flag
from lbctl.config import LEAVES, Config

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lbctl.config import Leaf

EXAMPLE = """\
port = 80
workers = 4
trusted_proxies = "10.0.0.0/8"

[balancing]
balance = "least-connections"
slow_start_s = 30

[timeouts]
response_timeout_s = 10
"""
"""A file of settings, as the reference shows it."""

_PREAMBLE = f"""\
# Configuration

<!-- Written by `make reference` from src/lbctl/config.py. Change it there. -->

Everything has a default. A setting can be given in three more places. Each one wins over those
before it:

1. its default;
2. the file `lbctl.toml` in the directory you start from, or the file that `LBCTL_CONFIG` names;
3. a variable of the environment, `LBCTL_` and the name in capitals;
4. a flag of `lbctl up` (or `lbctl serve`), `--` and the name with dashes.

So `connect_timeout_s = 1` in the file, `LBCTL_CONNECT_TIMEOUT_S=1` and `--connect-timeout-s 1` say
the same. `lbctl up --help` lists the everyday flags only, but takes them all. `--project` is a flag
of every command.

The file is [TOML](https://toml.io). A setting stands at the top or in the table of its section:

```toml
{EXAMPLE}```

A value that cannot be meant ends the command with exit status 2 and one line that names the place.
So does a key in the file that is no setting. A variable of another name is ignored.

`lbctl up` brings a running stack to the settings it is given, and those not given to their
defaults; only the number of backends stays. So keep them in the file, or give the same ones again.
Where they differ from those of the running lb, it reloads and no request is lost; other ports,
addresses and TLS files start it anew, which breaks the connections it has.
With Compose, set variables where Compose runs; `compose.yaml` passes them on.

Four variables are no settings. `LBCTL_CONFIG` names the file. `LBCTL_STATE_DIR` is where stacks on
the local runtime keep their files, and commands the locks by which they wait for each other.
`LBCTL_DEBUG=1` is `--debug`, `LBCTL_BUILD=1` is `--build` of `lbctl up` and `lbctl upgrade`.
"""


def text() -> str:
    """The whole document."""
    return "\n".join([_PREAMBLE, *_sections()])


def _sections() -> Iterator[str]:
    kinds = get_type_hints(Config)
    for section, leaves in groupby(LEAVES.values(), key=lambda leaf: leaf.section):
        if section:
            yield _section(f"`[{section}]`", inspect.getdoc(kinds[section]) or "", leaves)
        else:
            yield _section("The stack", "These stand at the top of the file.", leaves)


def _section(title: str, about: str, leaves: Iterable[Leaf]) -> str:
    rows = "".join(f"| {' | '.join(_cells(leaf))} |\n" for leaf in leaves)
    return f"## {title}\n\n{about}\n\n| setting | takes | default | |\n|---|---|---|---|\n{rows}"


def _cells(leaf: Leaf) -> Iterator[str]:
    yield f"`{leaf.name}`<br>`{leaf.variable}`<br>`{flag(leaf.name)}`"
    yield _takes(leaf)
    yield _default(leaf)
    yield leaf.help.replace("|", r"\|")


def _takes(leaf: Leaf) -> str:
    if leaf.choices:
        return ", ".join(f"`{choice}`" for choice in leaf.choices)
    return "text" if leaf.kind is str else f"{_unit(leaf)}, {leaf.range_text()}"


def _unit(leaf: Leaf) -> str:
    for ending, unit in (("_s", "seconds"), ("_bytes", "bytes"), ("_percent", "percent")):
        if leaf.name.endswith(ending):
            return unit
    return "whole number" if leaf.kind is int else "number"


def _default(leaf: Leaf) -> str:
    """As it would be written; none where the default stands for "not told"."""
    if leaf.kind is str:
        return f"`{leaf.default}`" if leaf.default else "none"
    below = leaf.low is not None and leaf.default < leaf.low
    return "none" if below else f"{leaf.default:g}"


if __name__ == "__main__":
    sys.stdout.write(text())
