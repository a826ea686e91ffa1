"""The guard in front of a real engine: what the lb needs goes through, and nothing else, even
for root in an lb.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from lbctl.core.allowlist import REASONS
from lbctl.model import Release
from lbctl.paths import GUARD_SOCKET, WORKER_UID
from lbctl.runtime.containers import BACKEND_IMAGE, Names, backend_body
from lbctl.runtime.docker import shapes
from tests.docker.conftest import BASE, docker, inspect
from tests.docker.stage import Stage, new_cli, staged
from tests.support.cli import Wrk, get
from tests.support.deadlines import scaled, until
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker

TWO = frozenset({"backend-1", "backend-2"})

# Runs inside an lb: sends each request as it stands, and prints each status and body.
ASK = """
import json, socket, sys
answers = []
for request in json.load(sys.stdin):
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(20)
        one.connect(sys.argv[1])
        one.sendall(request.encode())
        raw = b""
        while b"\\r\\n\\r\\n" not in raw and (more := one.recv(65536)):
            raw += more
        head, _, body = raw.partition(b"\\r\\n\\r\\n")
        length = [int(l.split(b":")[1]) for l in head.split(b"\\r\\n") if b"ontent-Length" in l]
        while length and len(body) < length[0] and (more := one.recv(65536)):
            body += more
        answers.append([int(head.split()[1]), body.decode()])
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    ensure_images()
    with staged(new_cli(LBCTL_HEAL_AFTER_S="1")) as stage:
        stage.cli.ok("up", "--replicas", "2")
        stage.settle(TWO)
        until(stage.both_lbs, within=20)
        yield stage


@pytest.fixture
def stranger() -> Iterator[str]:
    """A container that has nothing to do with lbctl; its id."""
    made = docker("run", "-d", "--label", "lbctl.role=backend", "-e", "SECRET=1", BASE,
                  "sleep", "600")  # fmt: skip
    yield made
    docker("rm", "-f", made)


def plain(method: str, target: str, body: Any = None, headers: str = "") -> str:
    raw = "" if body is None else json.dumps(body)
    return (
        f"{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(raw)}\r\n\r\n{raw}"
    )


def ask(stage: Stage, *requests: str, user: str = "0") -> list[tuple[int, str]]:
    """What the guard answers to somebody who has taken an lb over."""
    lb = stage.project.names.lb("a")
    command = ["exec", "-i", "-u", user, lb, "python3", "-c", ASK, str(GUARD_SOCKET)]
    return [tuple(answer) for answer in json.loads(docker(*command, stdin=json.dumps(requests)))]


def everything(*strangers: str) -> list[str]:
    """What there is, as far as the requests could have changed it. Images come and go."""
    asked = (
        ["ps", "-a", "--no-trunc", "--filter", f"ancestor={BACKEND_IMAGE}", "--format", "{{.ID}}"],
        ["volume", "ls", "-q"],
        ["network", "ls", "-q", "--no-trunc"],
        ["inspect", "-f", "{{.Id}} {{.State}}", *strangers],
    )
    return [docker(*command) for command in asked]


def ours(stage: Stage) -> dict[str, tuple[str, str]]:
    """Each container of the stack: its id, and since when it runs."""
    names = stage.project.objects()["containers"]
    found = {name: inspect(name) for name in names}
    return {name: (facts["Id"], facts["State"]["StartedAt"]) for name, facts in found.items()}


def refusals(stage: Stage) -> float:
    return sum(
        stage.sample(f'lbctl_guard_refused_total{{reason="{reason}"}}') for reason in REASONS
    )


def test_only_the_guard_has_the_engine(stage: Stage) -> None:
    having = [
        name
        for name in stage.project.objects()["containers"]
        if "docker.sock" in json.dumps([inspect(name)["Mounts"], inspect(name)["HostConfig"]])
    ]
    assert having == [stage.project.names.guard]
    for lb in stage.lbs:
        found = docker("exec", lb, "sh", "-c", "find / -name 'docker*.sock' 2>/dev/null || true")
        assert found == ""
        mounts = {one["Destination"]: one for one in inspect(lb)["Mounts"]}
        assert mounts[str(GUARD_SOCKET.parent)]["RW"] is False
    assert inspect(stage.project.names.guard)["HostConfig"]["NetworkMode"] == "none"


def test_a_worker_s_user_does_not_get_to_the_socket(stage: Stage) -> None:
    lb = stage.project.names.lb("a")
    tries = f"""
import os, socket
for action in (
    lambda: socket.socket(socket.AF_UNIX).connect({str(GUARD_SOCKET)!r}),
    lambda: os.listdir({str(GUARD_SOCKET.parent)!r}),
    lambda: os.stat({str(GUARD_SOCKET)!r}),
):
    try:
        action()
    except PermissionError:
        print("kept out")
"""
    user = f"{WORKER_UID}:{WORKER_UID}"
    said = docker("exec", "-u", user, lb, "python3", "-c", tries)
    assert said.splitlines() == ["kept out"] * 3


def test_what_an_lb_must_not_do_is_refused_and_not_done(stage: Stage, stranger: str) -> None:
    names = stage.project.names
    ids = {name: inspect(stage.full(name))["Id"] for name in ("pod", "lb-b", "guard", "backend-1")}
    backend, create = ids["backend-1"], f"/v1.41/containers/create?name={names.backend(99)}"
    good = {"Image": BACKEND_IMAGE, "Labels": {"lbctl.revision": "1"}}
    host = {"Privileged": True, "Binds": ["/:/host"], "PidMode": "host"}
    other = shapes(Names(f"{names.project}2")).list_backends
    before, own = everything(stranger), ours(stage)
    requests = [
        plain("POST", f"/v1.41/containers/{backend}/exec", {"Cmd": ["id"], "AttachStdout": True}),
        plain("POST", f"/v1.41/containers/{backend}/attach?stream=1&stdin=1",
              headers="Upgrade: tcp\r\nConnection: Upgrade\r\n"),
        *(plain("POST", create, good | {key: host})
          for key in ("HostConfig", "hostconfig", "HOSTCONFIG", "hostConfig")),
        plain("POST", create, good | {"Binds": ["/:/host"]}),
        plain("POST", create, good | {"Env": ["A=1"], "Cmd": ["sh"]}),
        plain("POST", create, {"Image": BASE, "Labels": {"lbctl.revision": "1"}}),
        plain("POST", create, backend_body(names, Release(1, BACKEND_IMAGE))),
        plain("POST", "/v1.41/containers/create?name=evil", good),
        plain("POST", "/v1.41/containers/create", good),
        plain("POST", f"/v1.41/images/create?fromImage={BASE}"),
        plain("POST", "/v1.41/build?remote=http://127.0.0.1/x"),
        plain("DELETE", f"/v1.41/volumes/{names.state_volume}?force=1"),
        plain("DELETE", f"/v1.41/networks/{names.network}"),
        plain("POST", "/v1.41/containers/prune"),
        plain("POST", "/v1.41/swarm/init", {}),
        plain("GET", "/v1.41/info"),
        plain("GET", f"/v1.41/containers/{stranger}/json"),
        plain("GET", f"/v1.41/containers/{stranger[:12]}/json"),
        plain("GET", f"/v1.41/containers/{stranger}/logs?stdout=1&stderr=1&tail=9&follow=0"),
        plain("GET", f"/v1.41/containers/{backend}/logs?stdout=1&stderr=1&tail=9&follow=1"),
        plain("GET", f"/v1.41/containers/{backend}/archive?path=/etc"),
        plain("GET", "/v1.41/containers/json?all=1&filters=" + escaped(other)),
        plain("GET", "/v1.41/containers/json?all=1"),
        plain("GET", "/v1.41/events"),
        *(
            request
            for victim in (ids["pod"], ids["lb-b"], ids["guard"], stranger)
            for request in (
                plain("POST", f"/v1.41/containers/{victim}/stop?t=0"),
                plain("DELETE", f"/v1.41/containers/{victim}?force=1&v=1"),
                plain("POST", f"/v1.41/containers/{victim}/kill"),
            )
        ),
        plain("POST", f"/v1.41/containers/{backend}/kill"),
        plain("POST", f"/v1.41/containers/{backend}/../{ids['pod']}/stop?t=0"),
        plain("POST", f"/v1.41/containers//{backend}/stop?t=0"),
        plain("POST", f"/v1.41/containers/{backend}/%73top?t=0"),
        plain("POST", f"/v1.41/containers/{backend}%2fstop?t=0"),
        plain("POST", f"/v1.41/containers/%2e%2e/containers/{backend}/stop?t=0"),
        plain("POST", f"/v1.24/containers/{backend}/stop?t=0"),
        plain("POST", f"http://localhost/v1.41/containers/{backend}/stop?t=0"),
        plain("POST", f"/v1.41/containers/{backend}/stop?t=0&t=0"),
        plain("POST", f"/v1.41/containers/{backend}/stop?T=0"),
        plain("POST", f"/v1.41/containers/{backend[:12]}/stop?t=0"),
        plain("POST", f"/v1.41/containers/{names.backend(1)}/stop?t=0"),
        plain("PUT", "/lbctl/image", {"image": BASE}),
        plain("PUT", "/lbctl/image", {"image": BASE}, f"Authorization: Bearer {'0' * 64}\r\n"),
    ]  # fmt: skip
    refused = refusals(stage)
    answers = ask(stage, *requests)
    assert [status for status, _ in answers] == [403] * len(requests), answers
    for _, body in answers:
        assert json.loads(body)["message"].startswith("the guard refuses it: ")
    assert ours(stage) == own
    assert everything(stranger) == before
    until(lambda: refusals(stage) == refused + len(requests), within=20)
    assert stage.sample('lbctl_guard_refused_total{reason="token"}') >= 2
    told = docker("logs", names.guard)
    assert told.count("refused (") >= len(requests)
    stage.settle(TWO)


def escaped(filters: dict[str, Any]) -> str:
    return quote(json.dumps(filters), safe="")


def test_what_is_told_has_no_secrets(stage: Stage) -> None:
    names = stage.project.names
    lb, pod = inspect(names.lb("b"))["Id"], inspect(names.pod)["Id"]
    asked = shapes(names).list_backends
    (_, one), (_, other), (_, listed) = ask(
        stage,
        plain("GET", f"/containers/{lb}/json"),
        plain("GET", f"/containers/{pod}/json"),
        plain("GET", f"/containers/json?all=1&filters={escaped(asked)}"),
    )
    assert {*json.loads(one)} == {"Id", "State", "Config", "NetworkSettings"}
    assert len(json.loads(listed)) == 2
    for text in (one, other, listed):
        assert not [
            word for word in ("Env", "Mounts", "HostConfig", "Binds", "PATH") if word in text
        ]


def test_scaling_healing_and_another_image_go_through_it(stage: Stage) -> None:
    stage.cli.ok("scale", "4")
    assert len(stage.names) == 4
    docker("rm", "-f", stage.full("backend-2"))
    until(lambda: len(stage.names) == 4, within=30)
    stage.cli.ok("scale", "2")
    image = f"{stage.cli.project}-web:2"
    docker("tag", BACKEND_IMAGE, image)
    try:
        for again in (False, True):
            stage.cli.ok("rollout", "--image", image)
            backends = [inspect(stage.full(name)) for name in stage.names]
            assert [facts["Config"]["Image"] for facts in backends] == [image] * 2
            # A guard that was started anew has forgotten it, and is told again.
            if not again:
                docker("restart", "-t", "5", stage.project.names.guard)
        stage.cli.ok("rollout", "--image", BACKEND_IMAGE)
    finally:
        docker("rmi", image, check=False)
    stage.cli.ok("scale", "2")
    stage.settle(stage.names)


def test_without_a_guard_traffic_goes_on_and_with_the_next_scaling(stage: Stage) -> None:
    stage.cli.ok("scale", "2")
    names, generation = stage.names, stage.cli.status()["generation"]
    load = Wrk(stage.cli.url + "/", seconds=12, connections=32)
    began = stage.cli.metric("lbctl_requests_total")
    until(lambda: stage.cli.metric("lbctl_requests_total") > began + 100)
    docker("stop", stage.project.names.guard)
    docker("restart", "-t", "20", stage.project.names.lb("b"))  # it serves without one, too
    result = stage.cli("scale", "3")
    assert result.status == 1, result
    assert "no guard answers" in result.err
    assert stage.names == names
    assert stage.cli.status()["generation"] == generation
    docker("start", stage.project.names.guard)
    stage.cli.ok("scale", "3")
    said = load.finish()
    assert said.failed == 0, said.text
    stage.cli.ok("scale", "2")
    stage.settle(stage.names)


def test_a_controller_that_starts_without_a_guard_serves_checks_and_lists(stage: Stage) -> None:
    """Of those that the last one had in rotation, and says what it does not see."""
    stage.cli.ok("scale", "3")
    names, status = stage.names, stage.cli.status()
    load = Wrk(stage.cli.url + "/", seconds=20, connections=16)
    docker("stop", stage.project.names.guard)
    try:
        killed = controllers(stage)
        for lb, pid in killed.items():
            docker("exec", stage.project.names.lb(lb), "kill", "-9", str(pid))
        until(lambda: all_others(killed, controllers(stage)), within=10)
        told = stage.cli.status()
        assert told["generation"] == status["generation"]
        assert told["address"].startswith("0.0.0.0")
        assert told["runtime_problem"]
        until(lambda: "no guard answers" in stage.cli.status()["runtime_problem"], within=10)
        assert "no guard answers" in stage.cli.ok("status")
        assert stage.names == names
        # Checks and lists go on.
        victim = stage.full("backend-1")
        assert victim in {stage.full(name) for name in names}
        docker("pause", victim)
        until(lambda: stage.names == names - {"backend-1"}, within=20)
        until(lambda: lists_name(stage, 2), within=10)
        docker("unpause", victim)
        until(lambda: stage.names == names and lists_name(stage, 3), within=20)
        began = time.monotonic()
        result = stage.cli("scale", "2")
        assert (result.status, "no guard answers" in result.err) == (1, True), result
        assert time.monotonic() - began < scaled(10)
    finally:
        docker("unpause", stage.full("backend-1"), check=False)
        docker("start", stage.project.names.guard)
    until(lambda: stage.cli.status()["runtime_problem"] == "", within=20)
    until(lambda: stage.cli.status()["address"].startswith("127.0.0.1"), within=20)
    stage.cli.ok("scale", "2")
    stage.settle(stage.names)
    said = load.finish()
    assert said.failed == 0, said.text


def controllers(stage: Stage) -> dict[str, int]:
    """By lb, the pid of its controller; nothing where nobody answers."""
    try:
        rows = stage.cli.status()["processes"]
    except OSError:
        return {}
    return {row["lb"]: row["pid"] for row in rows if row["role"] == "controller"}


def all_others(before: dict[str, int], after: dict[str, int]) -> bool:
    return before.keys() == after.keys() and not before.items() & after.items()


def lists_name(stage: Stage, count: int) -> bool:
    """Whether every backend in rotation serves a list of so many."""
    lists = [get(f"http://{row['ip']}:8080/ips.txt") for row in stage.cli.backends()]
    return [len(text.splitlines()) for text in lists] == [count] * count


def test_a_killed_guard_is_started_again(stage: Stage) -> None:
    counted = stage.cli.metric("lbctl_guard_requests_total")
    docker("kill", stage.project.names.guard)
    docker("start", stage.project.names.guard)
    stage.cli.ok("scale", "3")
    stage.cli.ok("scale", "2")
    until(lambda: stage.cli.metric("lbctl_guard_requests_total") > counted)


def test_the_host_s_command_needs_no_guard(stage: Stage) -> None:
    docker("stop", stage.project.names.guard)
    assert subprocess.run(["docker", "ps", "-q"], capture_output=True, check=False).returncode == 0
    stage.cli.ok("status")
    stage.cli.ok("up")
    assert inspect(stage.project.names.guard)["State"]["Running"]
