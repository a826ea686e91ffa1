"""compose.yaml on a real engine: the stack it makes is the one that `lbctl up` makes."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.runtime.containers import Names
from tests.docker.conftest import Project, docker, inspect
from tests.docker.stage import Stage, new_cli, staged
from tests.support.cli import Cli
from tests.support.deadlines import scaled, until
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPOSE = shutil.which("docker-compose")
FILE = Path(__file__).parents[2] / "compose.yaml"
NAME = "lbctl"  # compose.yaml has it in every name, as the product has by default

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(COMPOSE is None, reason="no docker-compose on this machine"),
]


def compose(cli: Cli, *arguments: str) -> None:
    """Run docker-compose on the project's own file; the images are there already."""
    assert COMPOSE is not None
    done = subprocess.run(
        [COMPOSE, "-p", f"{NAME}-test", "-f", str(FILE), *arguments],
        env=os.environ
        | {"LBCTL_BIND": "127.0.0.1", "LBCTL_PORT": str(cli.port), "LBCTL_WORKERS": "2"}
        | {"LBCTL_ADMIN_PORT": str(cli.admin_port)},
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(120),
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def composed() -> Iterator[Stage]:
    if any(Project(Names(NAME)).objects().values()):
        pytest.skip(f"a project {NAME} is on this engine already")
    ensure_images()
    stage = Stage(Cli(NAME, "docker"))
    try:
        began = time.monotonic()
        compose(stage.cli, "up", "-d", "--no-build", "--scale", "backend=2")
        stage.settle(own_names(stage))
        stage.report("docker-compose up --scale backend=2", began)
        yield stage
    finally:
        compose(stage.cli, "down", "-v")
        stage.cli.clean()


def own_names(stage: Stage) -> set[str]:
    """Compose chooses the names: lbctl-test_backend_1. The stage counts from after `lbctl-`."""
    by = ["--filter", f"label=lbctl.project={NAME}", "--filter", "label=lbctl.role=backend"]
    names = docker("ps", *by, "--format", "{{.Names}}").split()
    return {name.removeprefix(f"{NAME}-") for name in names}


def test_compose_scales(composed: Stage) -> None:
    for count in (4, 2):
        began = time.monotonic()
        compose(composed.cli, "up", "-d", "--no-build", "--scale", f"backend={count}")
        assert len(own_names(composed)) == count
        composed.settle(own_names(composed))
        composed.report(f"docker-compose up --scale backend={count}", began)


def test_what_compose_makes_is_what_up_makes(composed: Stage) -> None:
    with staged(new_cli()) as ours:
        ours.cli.ok("up", "--replicas", "1")
        for piece in ("pod", "lb-a", "lb-b", "guard"):
            theirs, own = inspect(composed.full(piece)), inspect(ours.full(piece))
            assert essence(theirs, NAME) == essence(own, ours.cli.project), piece
            # `up` also says what `lbctl scale` makes backends from; Compose makes them itself.
            more = {"LBCTL_BACKEND_IMAGE"} if piece.startswith("lb") else set()
            assert variables(own) - variables(theirs) == more
            assert variables(theirs) <= variables(own)
        backend = inspect(composed.full(min(own_names(composed))))
        own_backend = inspect(ours.full("backend-1"))
        assert essence(backend, NAME) == essence(own_backend, ours.cli.project)
        assert variables(backend) == variables(own_backend) == {"PATH"}


def test_both_lbs_serve(composed: Stage) -> None:
    until(composed.both_lbs)


def variables(facts: dict[str, Any]) -> set[str]:
    """Those that are set: Compose also names, without a value, what is not set where it runs."""
    return {entry.partition("=")[0] for entry in facts["Config"]["Env"] if "=" in entry}


def essence(facts: dict[str, Any], project: str) -> dict[str, Any]:
    """What makes a container what it is, without what is another one in each project."""
    config, host = facts["Config"], facts["HostConfig"]
    labels = {
        name: value.replace(project, "PROJECT")
        for name, value in config["Labels"].items()
        if name.startswith("lbctl.") and name not in ("lbctl.digest", "lbctl.revision")
    }
    # The engine's socket is the same one by its path through a link.
    mounts = [
        (
            one["Type"],
            (one.get("Name") or os.path.realpath(one["Source"])).replace(project, "PROJECT"),
            one["Destination"],
            one["RW"],
        )
        for one in facts["Mounts"]
    ]
    same = (
        "RestartPolicy", "CapDrop", "SecurityOpt", "ReadonlyRootfs", "LogConfig", "Memory",
        "PidsLimit", "Privileged", "Tmpfs", "Sysctls",
    )  # fmt: skip
    return {
        "image": facts["Image"],
        "command": (config["Entrypoint"], config["Cmd"], config["User"], config.get("StopSignal")),
        "stop timeout": config.get("StopTimeout"),
        "health check": config.get("Healthcheck"),
        "labels": labels,
        "mounts": sorted(mounts),
        "networks": [
            name.replace(project, "PROJECT") for name in facts["NetworkSettings"]["Networks"]
        ],
        "ports": sorted(
            (port, one["HostIp"])
            for port, ones in (host["PortBindings"] or {}).items()
            for one in ones
        ),
        # Compose v2 names CAP_KILL what 1.29 and lbctl name KILL.
        "capabilities": sorted(name.removeprefix("CAP_") for name in host["CapAdd"] or ()),
        **{key: host.get(key) for key in same},
    }
