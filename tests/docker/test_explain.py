"""`lbctl explain` and `lbctl bench` on an engine: what is out, and what an answer costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from lbctl.runtime.containers import BACKEND_IMAGE
from tests.docker.conftest import docker
from tests.docker.stage import Stage, new_cli, staged
from tests.support.deadlines import until
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    ensure_images()
    with staged(new_cli(LBCTL_HEAL="off")) as stage:
        stage.cli.ok("up", "--replicas", "2")
        yield stage


def started(stage: Stage, name: str, *labels: str, network: bool = True) -> None:
    """A container of somebody else's, without the token."""
    project = stage.cli.project
    marks = ("lbctl.role=backend", f"lbctl.project={project}", *labels)
    docker(
        "run", "-d", "--name", stage.full(name),
        *(("--network", project) if network else ()),
        *(part for mark in marks for part in ("--label", mark)), BACKEND_IMAGE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "labels", "network", "state", "changes"),
    [
        ("tokenless", [], True, "enrolling", "-v {project}_token:/run/lbctl:ro"),
        ("elsewhere", ["lbctl.admin-port=9999"], True, "enrolling", "lbctl.publish=false"),
        ("liar", ["lbctl.port=http"], True, "invalid", "another lbctl.port"),
        ("deaf", ["lbctl.port=8081"], True, "probing", "another port than 8081"),
        ("lost", ["lbctl.probe=/nope"], True, "probing", "its label lbctl.probe"),
        ("unconnected", [], False, "invalid", "docker network connect {project} {project}-"),
    ],
)
def test_who_stays_out_is_told_what_it_lacks(
    stage: Stage, name: str, labels: list[str], network: bool, state: str, changes: str
) -> None:
    started(stage, name, *labels, network=network)
    try:
        # Its first check and the first list come within a moment.
        wanted = changes.format(project=stage.cli.project)
        until(
            lambda: (
                state == stage.row(name)["state"]
                and wanted in stage.cli.ok("explain", stage.full(name))
            )
        )
    finally:
        docker("rm", "-f", stage.full(name))


def test_one_that_is_paused_or_has_exited(stage: Stage) -> None:
    name = stage.full("backend-1")
    docker("pause", name)
    try:
        until(lambda: f"docker unpause {name}" in stage.cli.ok("explain", name))
    finally:
        docker("unpause", name)
    until(lambda: len(stage.cli.backends()) == 2)
    docker("stop", name)
    try:
        until(lambda: f"docker start {name}" in stage.cli.ok("explain", name))
    finally:
        docker("start", name)
    until(lambda: len(stage.cli.backends()) == 2)


def test_what_an_answer_costs(stage: Stage) -> None:
    found = json.loads(stage.cli.ok("bench", "--seconds", "1", "--connections", "8", "--json"))
    assert found["requests"] > 0
    assert found["cpu"]["of"] == "lb containers"
    assert 1 < found["cpu"]["us_per_request"] < 10_000
