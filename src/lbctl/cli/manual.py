"""`python -m lbctl.cli.manual`: docs/cli.md, from the commands themselves."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

import click

from lbctl import __version__
from lbctl.admin.description import openapi
from lbctl.cli.app import lbctl

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREAMBLE = """\
# Commands

<!-- Written by `make reference` from src/lbctl/cli. Change it there. -->

`lbctl COMMAND --help` says the same, command by command. `--project NAME` and `--debug` may stand
before a command or behind it. Every setting of [configuration](configuration.md) is a flag of
`up`, `reload` and `serve`, also where the tables below do not list it.

BACKEND is a name, the beginning of an id, or an IP. Where none is called so, the message says what
is near.

## What comes out

Results go to standard output, everything else (what is being done, warnings, errors) to standard
error. On a terminal, what takes more than a moment shows how far it is; on a pipe the same facts
come as plain lines. Colour is for terminals, and `NO_COLOR=1` turns it off.

| exit status | |
|---|---|
| 0 | done |
| 1 | failed; the message says why |
| 2 | wrong usage: a flag or a value that cannot be meant |
| 3 | the machine lacks something; the message says what to install or start |
| 130 | interrupted by Ctrl-C; `status --watch`, which ends in no other way: 0 |

With `--json` standard output is one document (of `events`, `logs` and `status --watch`: one a
line), and nothing else is written there. Its keys are stable: new ones may be added, none changes
its meaning. A command that fails before it has a result prints no document: look at the exit status
first. Where a document says how something failed (a rollout that went back, a promise that was
broken), the status is 1 all the same. Times are ISO 8601 in UTC; keys that end in `_s` are seconds,
in `_ms` milliseconds.

## In the shell

`lbctl completion bash`, `zsh` or `fish` prints a script that completes commands, flags and, where
a stack runs, the names of its backends:

    eval "$(lbctl completion bash)"        # in ~/.bashrc
    eval "$(lbctl completion zsh)"         # in ~/.zshrc, after compinit
    lbctl completion fish | source         # in ~/.config/fish/config.fish
"""

_SCHEMAS = openapi(__version__)["components"]["schemas"]


def _fields(schema: str) -> str:
    return ", ".join(f"`{name}`" for name in _SCHEMAS[schema]["properties"])


_TOOK = "how long it took"
_ROW = "its row, as `lbctl status --json` has it under `backends`"

SHAPES: dict[str, dict[str, str]] = {
    "up": {
        "project": "its name", "runtime": "`docker` or `local`",
        "url": "where clients come in", "tls_url": "the same with TLS; null without",
        "redirects": "whether plain HTTP redirects to `tls_url`",
        "admin_url": "of metrics and the API", "replicas": "wanted; null if nobody said a number",
        "in_rotation": "how many backends are", "generation": "of the list",
        "list": "their addresses",
    },
    "scale": {
        "replicas": "wanted", "previous": "in rotation before", "in_rotation": "now; fewer where "
        "some are drained by hand", "generation": "of the list", "took_s": _TOOK,
    },
    "reload": {"settings": "all as they are now, by name", "took_s": _TOOK},
    "upgrade": {"lb": "the containers that serve now", "took_s": _TOOK},
    "drain": {"backend": _ROW},
    "undrain": {"backend": _ROW},
    "rollout": {
        "rollout": f"with {_fields('Rollout')}; its state is `done`, `rolled back` or `failed`",
        "took_s": _TOOK,
    },
    "token rotate": {
        "backends": "how many have taken the new one; null where another controller finished it",
        "lagging": "those that have not: `name` and `reason`",
        "spread_ms": "from the first to the last of them; null likewise",
    },
    "status": {
        "backends": f"each with {_fields('Backend')}",
        "processes": f"each with {_fields('Process')}",
        "...": "the answer of `GET /api/v1/status`, which `/api/v1/openapi.json` describes; with "
        "`--watch` one such line a second",
    },
    "explain": {
        "backend": _ROW, "in_rotation": "whether it gets requests",
        "what": "where it is, a sentence", "why": "a sentence",
        "changes": "sentences: what would change it",
    },
    "history": {
        "generations": "the lists: `seq`, `generation`, `at`, `reason`, `members` (`id`, `name`, "
        "`ip`, `since`), `joined`, `left`; [history](history.md) has more",
    },
    "events": {
        "...": "one such line an event: `seq`, `at`, `kind`, `text` and what its kind has; "
        "[history](history.md) lists the kinds",
    },
    "logs": {
        "whose": "a container's name; on local `lb`, or a backend's name",
        "...": "the line's own keys ([logs](logging.md)); what is no JSON has `log` `text`, and is "
        "its `message`",
    },
    "down": {"project": "its name", "ended": "whether there was something to end"},
    "verify": {
        "held": "whether every promise was", "...": "[verify](verify.md) has all of them",
    },
    "bench": {
        "project": "its name", "runtime": "`docker` or `local`", "url": "that was asked",
        "seconds": "of the load", "connections": "of wrk", "threads": "of wrk",
        "backends": "known", "workers": "of the lb", "requests": "answered",
        "requests_per_second": "of all of it", "read_bytes_per_second": "heads and bodies",
        "latency_ms": "`mean`, `p50`, `p75`, `p90`, `p99`, `max`",
        "errors": "`status` (not 2xx or 3xx), `connect`, `read`, `write`, `timeout`",
        "cpu": "`of` (`workers`, or `lb containers` with all that runs in them), `us_per_request`, "
        "`requests_per_second_per_core`, `cores_busy`; null where the processes changed meanwhile",
        "cores": "of this machine", "load_shares_the_machine": "true: wrk takes CPUs from the lb",
    },
    "doctor": {
        "runtime": "what lbctl could run on: `docker` or `local`; null: nothing",
        "findings": "`level` (`ok`, `hint` or `lack`), `subject`, `text`, `remedy`",
    },
}  # fmt: skip
"""What `--json` prints: by command, the keys of the document. "..." stands for more."""


def text() -> str:
    """The whole document."""
    return "\n".join([_PREAMBLE, *(_command(name, each) for name, each in _all(lbctl))])


def _all(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _all(command, f"{before}{name} ")
        else:
            yield before + name, command


def _command(name: str, command: click.Command) -> str:
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    usage = " ".join([f"lbctl {name}", *(one.metavar or "" for one in arguments)])
    parts = [f"## `{usage}`", _help(command)]
    rows = [_row(one) for one in command.params if isinstance(one, click.Option)]
    shown = [row for row in rows if row]
    if shown:
        parts.append("\n".join(["| option | |", "|---|---|", *shown]))
    if name in SHAPES:
        keys = [f"| `{key}` | {what} |" for key, what in SHAPES[name].items()]
        parts.append("\n".join(["| with `--json` | |", "|---|---|", *keys]))
    return "\n\n".join(parts) + "\n"


def _help(command: click.Command) -> str:
    """As it stands in the program; what click leaves as it is becomes a block of code."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n\n".join(
        "\n".join(f"    {line.strip()}" for line in paragraph.splitlines()[1:])
        if paragraph.startswith("\b")
        else paragraph
        for paragraph in paragraphs
    )


def _row(option: click.Option) -> str:
    if option.hidden or option.name in ("project", "debug"):
        return ""
    names = ", ".join(f"`{name}`" for name in reversed(option.opts))
    takes = "" if option.is_flag else f" {_metavar(option)}"
    return f"| {names}{takes} | {_escaped(option.help or '')} |"


def _metavar(option: click.Option) -> str:
    number = isinstance(option.type, click.IntRange)
    return _escaped(option.metavar or ("N" if number else "TEXT"))


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|")


if __name__ == "__main__":
    sys.stdout.write(text())
