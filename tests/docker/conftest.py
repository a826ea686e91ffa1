"""An engine, and projects on it that leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from lbctl.runtime.containers import Names
from lbctl.runtime.engine import Engine
from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

BASE = "alpine:3.10"
# PID 1 has no default for signals: it ends at those it traps, and at SIGKILL.
SLEEPER = "trap 'exit 0' TERM QUIT USR1; echo up; echo oops >&2; sleep 600 & wait; wait"


def docker(*arguments: str, stdin: str = "", check: bool = True) -> str:
    """What Docker's own client says: the tests' second opinion, and their other person."""
    done = subprocess.run(
        ["docker", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(120),
    )
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr or done.stdout}")
    return done.stdout.strip()


async def docker_aside(*arguments: str) -> str:
    """The same without holding up what the test has running."""
    return await asyncio.to_thread(docker, *arguments)


def inspect(thing: str) -> dict[str, Any]:
    """Everything about one object."""
    found: dict[str, Any] = json.loads(docker("inspect", thing))[0]
    return found


@dataclass(frozen=True)
class Project:
    """A project of a name that nothing else has."""

    names: Names

    @property
    def name(self) -> str:
        return self.names.project

    def objects(self) -> dict[str, list[str]]:
        """Names of everything on the engine that is this project's, by kind."""
        by = ["--filter", f"label=lbctl.project={self.name}", "--format"]
        listed = {
            "containers": docker("ps", "-a", *by, "{{.Names}}"),
            "networks": docker("network", "ls", *by, "{{.Name}}"),
            "volumes": docker("volume", "ls", *by, "{{.Name}}"),
        }
        return {kind: sorted(names.split()) for kind, names in listed.items()}

    def left(self) -> dict[str, list[str]]:
        """The same after `down`, but for a network that nobody could remove. One that goes now
        should have gone before.
        """
        found = self.objects()
        return found | {"networks": [name for name in found["networks"] if remove_network(name)]}

    def run(self, name: str, *arguments: str, labels: dict[str, str] | None = None) -> str:
        """`docker run` of a backend that is not of lbctl's making; returns its id."""
        flags = []
        for key, value in (self.names.labels("backend") | (labels or {})).items():
            flags += ["--label", f"{key}={value}"]
        return docker(
            "run", "-d", "--name", f"{self.name}-{name}", "--network", self.names.network,
            *flags, *arguments, BASE, "sh", "-c", SLEEPER,
        )  # fmt: skip

    def make_surroundings(self) -> None:
        """What the runtime expects to be there."""
        label = ["--label", f"lbctl.project={self.name}"]
        docker("network", "create", *label, self.names.network)
        docker("volume", "create", *label, self.names.token_volume)

    def remove(self) -> None:
        left = self.objects()
        if left["containers"]:
            docker("rm", "-fv", *left["containers"])
        for network in left["networks"]:
            remove_network(network)
        if left["volumes"]:
            docker("volume", "rm", *left["volumes"])


def remove_network(network: str) -> bool:
    """Returns False where nothing is on it, and the engine has lost count: it stays until the
    engine's next start (moby issue 42119).
    """
    try:
        docker("network", "rm", network)
    except AssertionError as error:
        if "has active endpoints" not in str(error) or inspect(network)["Containers"]:
            raise
        return False
    return True


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = await Engine.connect()
    yield engine
    await engine.close()


@pytest.fixture
def project() -> Iterator[Project]:
    project = Project(Names(f"t{secrets.token_hex(5)}"))
    yield project
    project.remove()


@pytest.fixture
def other_project() -> Iterator[Project]:
    project = Project(Names(f"t{secrets.token_hex(5)}"))
    yield project
    project.remove()


@pytest.fixture(scope="session")
def sleeper() -> Iterator[str]:
    """An image whose containers run until they are told not to, by SIGQUIT as nginx's are."""
    ref = f"lbctl-test-{secrets.token_hex(5)}:1"
    # As an lb it says that it is ready; nobody else of these may write there, and need not.
    script = json.dumps(["sh", "-c", f"touch /tmp/ready 2>/dev/null; {SLEEPER}"])
    dockerfile = f"FROM {BASE}\nSTOPSIGNAL SIGQUIT\nENTRYPOINT {script}\n"
    docker("build", "-t", ref, "-", stdin=dockerfile)
    yield ref
    docker("rmi", ref)


@pytest.fixture
def free_ports() -> list[int]:
    """Ports of this machine that nobody listens on."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        trials = (one, two, three)
        for trial in trials:
            trial.bind(("127.0.0.1", 0))
        return [int(trial.getsockname()[1]) for trial in trials]
