"""lbctl, as `lbctl up` makes it on an engine; known only by its command and its port."""

from __future__ import annotations

import json
import secrets
from typing import Any

from tests.support.cli import Cli

from benchmarks.faults.disturbances import RELOAD, REPLACE
from benchmarks.faults.engine import docker, kill_first_process, listed
from benchmarks.faults.stacks import Backend
from lbctl.cli.app import lbctl
from lbctl.errors import OperationError
from lbctl.runtime.containers import Names

_COMMANDS = {REPLACE: "rollout", RELOAD: "reload"}  # by disturbance


def lacks() -> dict[str, str]:
    """What this version has no command for."""
    return {
        name: f"this version has no command for it: {command}"
        for name, command in _COMMANDS.items()
        if command not in lbctl.commands
    }


class LbctlStack:
    """All settings are the defaults, but for what keeps projects apart, and the address."""

    def __init__(self) -> None:
        project = f"faults-{secrets.token_hex(4)}"
        self._cli = Cli(project, "docker", settings={"LBCTL_BIND": "127.0.0.1"})

    @property
    def port(self) -> int:
        return self._cli.port

    def up(self, backends: int) -> None:
        self._run("up", "--replicas", str(backends))

    def down(self) -> None:
        self._cli.clean()

    def backends(self) -> list[Backend]:
        rows = [row for row in self._status()["backends"] if row["state"] == "up"]
        return [
            Backend(row["name"], row["ip"]) for row in sorted(rows, key=lambda row: row["name"])
        ]

    def scale(self, count: int) -> None:
        self._run("scale", str(count))

    def replace_all(self) -> None:
        self._run(_COMMANDS[REPLACE])

    def reload(self) -> None:
        self._run(_COMMANDS[RELOAD])

    def kill_worker(self) -> None:
        row = next(row for row in self._status()["processes"] if row["role"] == "worker")
        # Where the lb is several containers, a process says in which of them it is.
        [container, *_] = (
            name for name in self._lbs() if not row.get("lb") or name.endswith(f"-{row['lb']}")
        )
        docker("exec", container, "kill", "-9", str(row["pid"]))

    def kill(self) -> None:
        kill_first_process(self._lbs()[0])

    def _lbs(self) -> list[str]:
        """The containers of the lb."""
        labels = Names(self._cli.project).labels("lb").items()
        return listed(*("=".join(label) for label in labels))

    def _status(self) -> Any:
        return json.loads(self._run("status", "--json"))

    def _run(self, *words: str) -> str:
        result = self._cli(*words)
        if result.status:
            said = (result.err or result.out).strip().splitlines()
            raise OperationError(f"lbctl {words[0]}: {said[-1] if said else 'it says nothing'}")
        return result.out
