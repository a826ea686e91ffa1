"""The lb container and its processes are killed and restarted; each time all is right again."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker.conftest import docker, inspect
from tests.docker.stage import Stage, new_cli, staged
from tests.support.cli import Wrk
from tests.support.deadlines import until
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker

THREE = frozenset({"backend-1", "backend-2", "backend-3"})


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    ensure_images()
    with staged(new_cli()) as stage:
        stage.cli.ok("up")
        yield stage


def kill(stage: Stage, role: str) -> int:
    """kill -9 of one process of the lb; returns its pid inside the container."""
    pid = stage.cli.processes(role)[0]
    docker("exec", stage.lb, "kill", "-9", str(pid))
    return pid


def up_changes_nothing(stage: Stage) -> bool:
    """Whether `up` finds everything as it should be."""
    before = stage.cli.status()
    result = stage.cli("up")
    assert result.status == 0, result
    after = stage.cli.status()
    said = result.err.splitlines() == ["runtime: docker (it was asked for)"]
    return said and all(before[key] == after[key] for key in ("processes", "generation"))


def test_a_killed_controller_costs_nothing(stage: Stage) -> None:
    generation = stage.cli.status()["generation"]
    load = Wrk(stage.cli.url + "/", seconds=4)
    began = time.monotonic()
    victim = kill(stage, "controller")
    until(lambda: stage.cli.processes("controller") not in ([], [victim]))
    stage.settle(THREE)
    stage.report("kill -9 of the controller", began)
    # The next one has all that the last one had: what happens now is seen.
    stage.disturb("stop", stage.full("backend-3"), then=THREE - {"backend-3"})
    stage.disturb("start", stage.full("backend-3"), then=THREE)
    said = load.finish()
    assert said.failed == 0, said.text
    assert stage.cli.status()["generation"] == generation + 2


def test_a_killed_worker_costs_only_what_it_had_in_flight(stage: Stage) -> None:
    connections = 16
    load = Wrk(stage.cli.url + "/", seconds=3, connections=connections)
    until(lambda: stage.cli.metric("lbctl_connections") >= connections)
    began = time.monotonic()
    victim = kill(stage, "worker")
    until(lambda: len(set(stage.cli.processes("worker")) - {victim}) == 2)
    stage.settle(THREE)
    stage.report("kill -9 of a worker", began)
    said = load.finish()
    assert said.not_2xx == 0, said.text
    assert said.socket_errors["connect"] == said.socket_errors["timeout"] == 0, said.text
    assert said.failed <= connections, said.text


def test_a_killed_supervisor_is_started_again_by_the_engine(stage: Stage) -> None:
    before = stage.cli.status()
    began = time.monotonic()
    os.kill(inspect(stage.lb)["State"]["Pid"], signal.SIGKILL)
    until(lambda: inspect(stage.lb)["RestartCount"] == 1)
    stage.settle(THREE, within=20)
    stage.report("kill -9 of the supervisor", began)
    assert_same_backends(stage, before)
    assert up_changes_nothing(stage)


def test_a_restarted_lb_goes_on_where_it_was(stage: Stage) -> None:
    before = stage.cli.status()
    with stage.disturbed("restart", stage.lb) as began:
        until(lambda: stage.cli.status()["processes"][0] != before["processes"][0], within=20)
        stage.settle(THREE)
        stage.report("docker restart of the lb", began)
    assert_same_backends(stage, before)
    assert up_changes_nothing(stage)


def test_what_happened_while_the_lb_was_away_is_found(stage: Stage) -> None:
    generation = stage.cli.status()["generation"]
    docker("kill", stage.lb)
    docker("kill", stage.full("backend-2"))
    stage.join("stranger")
    began = time.monotonic()
    stage.cli.ok("up", "--replicas", "4")
    stage.settle(stage.names)
    stage.report("lbctl up --replicas 4 of a stack with a dead lb", began)
    assert len(stage.names) == 4
    assert "stranger" in stage.names
    assert stage.cli.status()["generation"] > generation


def assert_same_backends(stage: Stage, before: dict[str, Any]) -> None:
    after = stage.cli.status()
    assert after["generation"] >= before["generation"]
    assert [row["id"] for row in after["backends"]] == [row["id"] for row in before["backends"]]
