"""Rollouts and healing on a real engine: good images, bad ones, and containers that go away."""

from __future__ import annotations

import json
import secrets
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.runtime.containers import BACKEND_IMAGE
from tests.docker.conftest import BASE, docker, inspect
from tests.docker.stage import Stage, new_cli, staged
from tests.support.cli import Wrk
from tests.support.deadlines import scaled, until
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.docker

ABSENT = "127.0.0.1:1/lbctl-absent:1"  # a registry that refuses at once
SLEEP = "trap 'exit 0' TERM QUIT; sleep 600 & wait"
BAD = {
    "exits at once": (
        "echo 'no such user: nobody' >&2; exit 3",
        "does not stay up: restarting, exit status 3",
        "no such user: nobody",
    ),
    "never listens": (
        f"echo 'still thinking'; {SLEEP}",
        "did not come into rotation within 4 s: its check failed: connection refused",
        "still thinking",
    ),
    "listens on another port": (
        "echo 'listening on 8081'; exec nc -lk -p 8081 -e /bin/true",
        "did not come into rotation within 4 s: its check failed: connection refused",
        "listening on 8081",
    ),
}


@pytest.fixture(scope="module")
def images() -> Iterator[Callable[[str], str]]:
    """Builds an image from a Dockerfile; returns its name."""
    ensure_images()
    made: list[str] = []

    def build(dockerfile: str) -> str:
        made.append(f"lbctl-test-{secrets.token_hex(5)}:2")
        docker("build", "-t", made[-1], "-", stdin=dockerfile)
        return made[-1]

    yield build
    for image in made:
        docker("rmi", "-f", image)


@pytest.fixture(scope="module")
def good(images: Callable[[str], str]) -> str:
    """lbctl's own under another name, and another image."""
    return images(f"FROM {BACKEND_IMAGE}\nLABEL another=one\n")


@pytest.fixture(scope="module")
def shared(images: Callable[[str], str]) -> Iterator[Stage]:
    settings = {"LBCTL_ROLLOUT_TIMEOUT_S": "4", "LBCTL_HEAL_AFTER_S": "2"}
    with staged(new_cli(**settings)) as stage:
        stage.cli.ok("up")
        yield stage


@pytest.fixture
def stage(shared: Stage) -> Stage:
    """Three backends of lbctl's own image, whatever the last test left."""
    shared.cli.ok("scale", "3")
    if set(images_of(shared).values()) != {BACKEND_IMAGE}:
        shared.cli.ok("rollout", "--image", BACKEND_IMAGE, "--batch", "3")
    shared.settle(shared.names)
    assert len(shared.names) == 3
    return shared


def images_of(stage: Stage) -> dict[str, str]:
    """By id, of the backends in rotation: as the engine has them."""
    return {row["id"]: inspect(row["id"])["Config"]["Image"] for row in stage.cli.backends()}


def rollout(stage: Stage) -> dict[str, Any]:
    return dict(stage.cli.status()["rollout"] or {})


def containers(stage: Stage) -> list[str]:
    """Names of this project's backends, running or not."""
    role = ("--filter", "label=lbctl.role=backend")
    project = ("--filter", f"label=lbctl.project={stage.cli.project}")
    return sorted(docker("ps", "-a", *role, *project, "--format", "{{.Names}}").split())


@contextmanager
def no_request_fails(stage: Stage, seconds: float) -> Iterator[None]:
    load = Wrk(stage.cli.url + "/", seconds=seconds, connections=64)
    yield
    said = load.finish()
    assert said.failed == 0, said.text
    assert said.requests > 100, said.text


def test_to_another_image_and_what_is_started_afterwards(stage: Stage, good: str) -> None:
    before = images_of(stage)
    with no_request_fails(stage, seconds=8):
        printed = stage.cli.ok("rollout", "--image", good)
        assert printed.startswith("3 backends replaced in "), printed
    after = images_of(stage)
    assert not set(after) & set(before)
    assert list(after.values()) == [good] * 3
    stage.settle(stage.names)
    assert len(containers(stage)) == 3
    stage.cli.ok("scale", "4")
    assert list(images_of(stage).values()) == [good] * 4


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_rolled_back_and_says_why(
    stage: Stage, images: Callable[[str], str], kind: str
) -> None:
    command, why, said = BAD[kind]
    bad = images(f"FROM {BASE}\nCMD {command}\n")
    before, there = images_of(stage), containers(stage)
    with no_request_fails(stage, seconds=10):
        result = stage.cli("rollout", "--image", bad)
    assert result.status == 1
    _, told, rest = result.err.partition("lbctl: the rollout is rolled back: ")
    assert told, result.err
    first, *lines = rest.splitlines()
    assert why in first, first
    assert said in "\n".join(lines)
    assert images_of(stage) == before
    assert containers(stage) == there
    stage.settle(stage.names)
    assert "rolled back" in stage.cli.ok("status")


def test_an_image_that_cannot_be_had_changes_nothing(stage: Stage) -> None:
    before, last = images_of(stage), rollout(stage)
    result = stage.cli("rollout", "--image", ABSENT)
    assert result.status == 1
    assert f"image {ABSENT} cannot be pulled" in result.err
    assert images_of(stage) == before
    assert rollout(stage) == last


def test_nor_does_it_where_the_lb_is_asked_for_it(stage: Stage) -> None:
    """Without the command, which would have looked for it first."""
    before = images_of(stage)
    token = docker("exec", stage.leader, "cat", "/var/lib/lbctl/admin-token")
    request = urllib.request.Request(  # noqa: S310
        f"{stage.cli.admin_url}/api/v1/rollout",
        data=json.dumps({"image": ABSENT}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=scaled(5)) as response:  # noqa: S310
        assert response.status == 202
    until(lambda: rollout(stage)["state"] == "rolled back")
    assert "o such image" in rollout(stage)["message"]
    assert images_of(stage) == before


def test_a_controller_that_is_killed_in_the_middle(stage: Stage, good: str) -> None:
    def kill_it() -> None:
        status = stage.cli.status()
        [controller] = [
            row["pid"]
            for row in status["processes"]
            if (row["role"], row["lb"]) == ("controller", status["leader"])
        ]
        docker("exec", stage.leader, "kill", "-9", str(controller))

    before = images_of(stage)
    with no_request_fails(stage, seconds=10):
        token = docker("exec", stage.leader, "cat", "/var/lib/lbctl/admin-token")
        request = urllib.request.Request(  # noqa: S310
            f"{stage.cli.admin_url}/api/v1/rollout",
            data=json.dumps({"image": good}).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=scaled(5)).close()  # noqa: S310
        until(lambda: rollout(stage)["replaced"] >= 1)
        kill_it()
        until(lambda: rollout(stage)["state"] == "done", within=30)
    after = images_of(stage)
    assert list(after.values()) == [good] * 3
    assert not set(after) & set(before)
    assert len(containers(stage)) == 3


# Healing


@pytest.mark.parametrize("command", [("rm", "-f"), ("kill",), ("pause",)])
def test_a_backend_that_goes_away_is_replaced(stage: Stage, command: tuple[str, ...]) -> None:
    [victim, *others] = stage.cli.backends()
    with no_request_fails(stage, seconds=8):
        docker(*command, victim["id"])
        until(lambda: victim["id"] not in {r["id"] for r in stage.cli.status()["backends"]})
        until(lambda: len(stage.cli.backends()) == 3, within=15)
    assert {row["id"] for row in others} < set(images_of(stage))
    assert len(containers(stage)) == 3
    stage.settle(stage.names)


def test_strangers_are_not_touched(stage: Stage, good: str) -> None:
    stage.join("stranger")
    until(lambda: "stranger" in stage.names)
    stranger = inspect(stage.full("stranger"))["Id"]
    try:
        stage.cli.ok("rollout", "--image", good, "--batch", "3")
        assert stranger in images_of(stage)
        stage.cli.ok("scale", "4")  # it is one of them
        assert len(containers(stage)) == 4
        docker("kill", stranger)
        until(lambda: list(images_of(stage).values()) == [good] * 4, within=15)
        assert inspect(stranger)["State"]["Status"] == "exited"
    finally:
        docker("rm", "-f", stranger)


def test_a_bad_image_does_not_churn(images: Callable[[str], str]) -> None:
    """From the first start on: which container, why, and its last words; then few tries."""
    bad = images(f"FROM {BASE}\nCMD echo 'no such user: nobody' >&2; exit 3\n")
    settings = {
        "LBCTL_SCALE_TIMEOUT_S": "3", "LBCTL_HEAL_AFTER_S": "1", "LBCTL_HEAL_LIMIT": "2",
        "LBCTL_HEAL_RETRY_MIN_S": "0.2", "LBCTL_BACKEND_IMAGE": bad,
    }  # fmt: skip
    with staged(new_cli(**settings)) as stage:
        result = stage.cli("up", "--replicas", "1")
        assert result.status == 1
        assert "after 3 s, 0 of 1 backends are in rotation" in result.err
        assert "no such user: nobody" in result.err
        healing = until(
            lambda: (h := stage.cli.status()["healing"])["state"] == "gave up" and h, within=30
        )
        assert "no such user: nobody" in healing["message"]
        assert "gave up" in stage.cli.ok("status")
        assert len(containers(stage)) <= 1
        stage.cli.ok("rollout", "--image", BACKEND_IMAGE)
        assert len(stage.names) == 1
