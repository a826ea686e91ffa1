"""The product's stack on an engine, what disturbs it, and how long it then takes until it is
right again: every list of every backend, held against what the engine says.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import time
from collections import Counter
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from lbctl.runtime.containers import BACKEND_IMAGE, Names
from tests.docker.conftest import Project, docker
from tests.support.cli import Cli, get
from tests.support.deadlines import scaled, until
from tests.support.lists import expected_list

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


def new_cli(**settings: str) -> Cli:
    """A project of its own on free ports; two workers, whatever the machine has."""
    return Cli(
        f"t{secrets.token_hex(5)}",
        "docker",
        settings={"LBCTL_WORKERS": "2", "LBCTL_BIND": "127.0.0.1", **settings},
    )


class Stage:
    """One stack. Names of backends are what comes after the project's: backend-1, stranger."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.project = Project(Names(cli.project))

    @property
    def leader(self) -> str:
        """The container of the lb that leads."""
        return self.project.names.lb(self.cli.status()["leader"])

    @property
    def lbs(self) -> list[str]:
        """The containers of all lbs that the leader knows, by name."""
        lbs = {row["lb"] for row in self.cli.status()["processes"]}
        return [self.project.names.lb(lb) for lb in sorted(lbs)]

    def both_lbs(self) -> bool:
        """Whether two lbs are there with all their processes."""
        roles = Counter((row["lb"], row["role"]) for row in self.cli.status()["processes"])
        wanted = {("supervisor", 1), ("controller", 1), ("worker", 2)}
        return roles == {(lb, role): count for lb in "ab" for role, count in wanted}

    def full(self, name: str) -> str:
        return f"{self.cli.project}-{name}"

    @property
    def names(self) -> set[str]:
        """Of the backends in rotation."""
        return {row["name"].removeprefix(f"{self.cli.project}-") for row in self.cli.backends()}

    def row(self, name: str) -> dict[str, Any]:
        """What `lbctl status --json` says of a known backend. Raises AssertionError if nothing."""
        document = json.loads(self.cli.ok("status", "--json"))
        rows = [row for row in document["backends"] if row["name"] == self.full(name)]
        assert len(rows) == 1, (name, document["backends"])
        return dict(rows[0])

    def address(self, name: str) -> str:
        """On the project's network, as the engine has it."""
        template = f'{{{{with index .NetworkSettings.Networks "{self.cli.project}"}}}}' + (
            "{{.IPAddress}}{{end}}"
        )
        return docker("inspect", "-f", template, self.full(name))

    def join(
        self,
        name: str,
        *command: str,
        labels: Mapping[str, str] | None = None,
        image: str = BACKEND_IMAGE,
    ) -> None:
        """The line of the contract by which any container joins, with more labels."""
        docker(*self.join_line(name, *command, labels=labels, image=image))

    def join_line(
        self,
        name: str,
        *command: str,
        labels: Mapping[str, str] | None = None,
        image: str = BACKEND_IMAGE,
    ) -> list[str]:
        project = self.cli.project
        wanted = {"lbctl.role": "backend", "lbctl.project": project} | dict(labels or {})
        flags = [flag for item in wanted.items() for flag in ("--label", "=".join(item))]
        return [
            "run", "-d", "--name", self.full(name), "--network", project, *flags,
            "-v", f"{project}_token:/run/lbctl:ro", image, *command,
        ]  # fmt: skip

    def sample(self, series: str) -> float:
        """One line of /metrics by its name and labels; 0 where there is none yet."""
        text = get(f"{self.cli.admin_url}/metrics")
        found = [line for line in text.splitlines() if line.startswith(f"{series} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def settle(
        self, names: Collection[str], within: float = 10.0, listless: Collection[str] = ()
    ) -> None:
        """Wait until exactly these are in rotation and every list, on each of them and through
        the lb, says exactly that; then hold it against the addresses that the engine knows.

        Those in `listless` are named by the lists and have none themselves.
        """
        until(lambda: self._right(set(names), set(listless)), within)
        known = {self.full(name): self.address(name) for name in names}
        assert {row["name"]: row["ip"] for row in self.cli.backends()} == known

    def _right(self, names: set[str], listless: set[str]) -> bool:
        rows = self.cli.backends()
        if {row["name"] for row in rows} != {self.full(name) for name in names}:
            return False
        wanted = expected_list(row["ip"] for row in rows)
        without = {self.full(name) for name in listless}
        listed = all(_serves(row["ip"], wanted) for row in rows if row["name"] not in without)
        return listed and (bool(listless) or get(f"{self.cli.url}/ips.txt") == wanted)

    @contextlib.contextmanager
    def disturbed(self, *command: str) -> Iterator[float]:
        """Run a docker command beside the block; yields when it began, and ends with it."""
        with subprocess.Popen(
            ["docker", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            yield time.monotonic()
            _, errors = process.communicate(timeout=scaled(60))
        assert process.returncode == 0, (command, errors)

    def disturb(self, *command: str, then: Collection[str], within: float = 10.0) -> None:
        """Run a docker command, wait for what should follow, and print how long that took,
        counted from the start of the command.
        """
        with self.disturbed(*command) as began:
            self.settle(then, within)
            self.report(f"docker {' '.join(command[:2])}", began)

    def report(self, what: str, began: float) -> None:
        """Print how long ago that was, in the words of every such line."""
        took_ms = (time.monotonic() - began) * 1000
        what = what.replace(f"{self.cli.project}-", "")
        print(f"\n[lists right {took_ms:6.0f} ms after] {what}", end="")


def _serves(ip: str, wanted: str) -> bool:
    """Whether a backend serves exactly this list, in both forms."""
    base = f"http://{ip}:8080"
    document = json.loads(get(f"{base}/ips.json"))
    listed = [one["ip"] for one in document["backends"]]
    ordered = listed == sorted(listed, key=IPv4Address)
    return ordered and get(f"{base}/ips.txt") == wanted == expected_list(listed)


@contextlib.contextmanager
def staged(cli: Cli) -> Iterator[Stage]:
    """The stage, and an end that leaves nothing behind, whatever happened on it."""
    stage = Stage(cli)
    try:
        yield stage
    finally:
        cli.clean()
        stage.project.remove()
