"""Rotating the tokens of a running stack on an engine: two lbs share the state, backends come and
go, and the lb that leads is killed in the middle.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from lbctl.paths import CONTAINER
from lbctl.runtime.containers import LB_IMAGE
from tests.docker.conftest import docker
from tests.docker.stage import Stage, new_cli, staged
from tests.support.cli import Wrk
from tests.support.credentials import names_for, token_for
from tests.support.deadlines import scaled, until
from tests.support.images import ensure_images
from tests.support.nginx import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker

THREE = frozenset({"backend-1", "backend-2", "backend-3"})
ROTATIONS = 10


@pytest.fixture(scope="module")
def shared() -> Iterator[Stage]:
    ensure_images()
    with staged(new_cli(LBCTL_ACCESS_LOG="off")) as stage:  # or logs would be cut under load
        stage.cli.ok("up")
        yield stage


@pytest.fixture
def stage(shared: Stage) -> Iterator[Stage]:
    """Two lbs and three backends at the start of each test, whatever the last one left."""
    shared.cli.ok("up", "--replicas", "3")
    until(shared.both_lbs, within=20)
    shared.settle(THREE)
    yield shared
    for name in docker("ps", "-aq", "--filter", f"name=^/{shared.full('stranger')}").split():
        docker("rm", "-f", name)


def an_lb(stage: Stage) -> str:
    """A container of an lb that runs, whoever leads."""
    return docker("ps", "-q", "--filter", f"name=^/{stage.project.names.lb('')}").split()[0]


def in_lb(stage: Stage, *command: str) -> str:
    return docker("exec", an_lb(stage), *command)


def secrets_of(stage: Stage) -> tuple[str, str]:
    """The admin token, and what the backends' tokens are drawn from."""
    said = in_lb(stage, "cat", str(CONTAINER.admin_token), str(CONTAINER.publish_secret)).split()
    return said[0], said[1]


def known(stage: Stage) -> set[str]:
    """The names by which backends know their tokens."""
    return set(in_lb(stage, "ls", str(CONTAINER.tokens)).split())


def change_status(stage: Stage, token: str) -> int:
    """What the admin port answers to a change that cannot be meant, with this token."""
    request = urllib.request.Request(  # noqa: S310
        f"{stage.cli.admin_url}/api/v1/scale",
        data=b"{}",
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, timeout=scaled(5)).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    return 200


def put_status(ip: str, token: str) -> int:
    """What a backend answers on port 9000 to this token; no list is harmed."""
    return ask(ip, 9000, "PUT", "/other", fields={"Authorization": f"Bearer {token}"}).status


def put_statuses(stage: Stage, secret: str) -> set[int]:
    """What all backends answer, each to its token as it is drawn from this secret."""
    return {put_status(row["ip"], token_for(secret, row)) for row in stage.cli.backends()}


def logs_of(stage: Stage) -> str:
    """All that any container of the project has said."""
    said = []
    for name in stage.project.objects()["containers"]:
        done = subprocess.run(
            ["docker", "logs", name], capture_output=True, text=True, timeout=scaled(60), check=True
        )
        said += [done.stdout, done.stderr]
    return "".join(said)


def audit_lines(text: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in text.splitlines() if '"log": "audit"' in line]
    return [line for line in lines if line["action"] != "read"]


@contextmanager
def rotating(stage: Stage) -> Iterator[subprocess.Popen[str]]:
    """`lbctl token rotate` beside the block, which begins when both tokens are others."""
    with subprocess.Popen(
        [sys.executable, "-m", "lbctl", "token", "rotate"],
        env=stage.cli.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            until(lambda: stage.cli.status()["tokens"]["rotating"])
            yield process
        finally:
            process.kill()


def test_rotations_under_load_while_backends_come_and_go(stage: Stage) -> None:
    seen = [secrets_of(stage)]
    trouble: list[str] = []
    over = threading.Event()

    def scale() -> None:
        size = 3
        while not over.is_set():
            size = 8 - size
            result = stage.cli("scale", str(size))
            if result.status != 0:
                trouble.append(f"scale {size}: {result}")

    load = Wrk(stage.cli.url + "/", seconds=scaled(60))
    scaling = threading.Thread(target=scale)
    scaling.start()
    try:
        for _ in range(ROTATIONS):
            answer = json.loads(stage.cli.ok("token", "rotate", "--json"))
            assert answer["lagging"] == []
            seen.append(secrets_of(stage))
    finally:
        over.set()
        scaling.join()
    result = load.finish()
    assert result.failed == 0, result.text
    assert trouble == []

    text = logs_of(stage)
    assert "refused its token" not in text
    lines = audit_lines(text)
    assert {line["status"] for line in lines} == {200}
    rotations = [line for line in lines if line["action"] == "token-rotate"]
    assert len(rotations) >= ROTATIONS
    assert {line["client"] for line in rotations} != {""}

    stage.cli.ok("scale", "3")
    until(lambda: known(stage) == names_for(seen[-1][1], stage.cli.backends()))
    for admin, secret in seen[:-1]:
        assert change_status(stage, admin) == 401
        assert put_statuses(stage, secret) == {401}
    assert change_status(stage, seen[-1][0]) == 400
    assert put_statuses(stage, seen[-1][1]) == {404}


def test_a_backend_started_by_hand_joins_after_a_rotation(stage: Stage) -> None:
    stage.join("stranger-before")
    stage.settle(THREE | {"stranger-before"})
    assert "4 backends have taken theirs" in stage.cli.ok("token", "rotate")
    stage.join("stranger-after")
    stage.settle(THREE | {"stranger-before", "stranger-after"})


@pytest.mark.parametrize("whole_lb", [False, True])
def test_the_leading_controller_is_killed_in_the_middle(stage: Stage, whole_lb: bool) -> None:
    before = secrets_of(stage)
    status = stage.cli.status()
    leader = stage.project.names.lb(status["leader"])
    [pid] = [
        row["pid"]
        for row in status["processes"]
        if (row["role"], row["lb"]) == ("controller", status["leader"])
    ]
    load = Wrk(stage.cli.url + "/ips.txt", seconds=10)
    with rotating(stage) as command:
        if whole_lb:
            docker("kill", leader)
        else:
            docker("exec", leader, "kill", "-9", str(pid))
        out, err = command.communicate(timeout=scaled(60))
    assert command.returncode == 0, err
    assert "waiting for the controller that goes on with it" in err
    assert "the backends have taken theirs" in out
    after = secrets_of(stage)
    assert not {*before} & {*after}
    until(lambda: known(stage) == names_for(after[1], stage.cli.backends()))
    assert change_status(stage, before[0]) == 401
    assert put_statuses(stage, before[1]) == {401}
    assert stage.cli.status()["tokens"]["rotating"] is False
    stage.cli.ok("scale", "4")
    stage.settle(THREE | {"backend-4"})
    result = load.finish()
    if not whole_lb:  # who was connected to a killed lb has lost that connection
        assert result.failed == 0, result.text
    else:
        docker("start", leader)


def test_no_secret_is_in_any_process_container_or_log(stage: Stage) -> None:
    secret = {*secrets_of(stage), *keys(stage)}
    stage.cli.ok("token", "rotate")
    secret |= {*secrets_of(stage), *keys(stage)}
    containers = stage.project.objects()["containers"]
    assert len(containers) == 7  # pod, two lbs, guard, three backends
    said = logs_of(stage) + docker("inspect", *containers)
    said += docker("volume", "inspect", *stage.project.objects()["volumes"])
    said += docker("network", "inspect", stage.cli.project)
    said += stage.cli.ok("status", "--json")
    for entry in Path("/proc").iterdir():  # those in containers too: the engine is this machine's
        if entry.name.isdigit():
            for name in ("environ", "cmdline"):
                try:
                    said += (entry / name).read_text(errors="replace")
                except OSError:
                    continue  # it has ended, or is somebody else's
    assert not [token for token in secret if token in said]
    assert not [token for token in secret if token in "".join(known(stage))]
    files = [str(CONTAINER.admin_token), str(CONTAINER.publish_secret)]
    assert in_lb(stage, "stat", "-c", "%a %u", *files).split("\n") == ["400 0"] * 2


def keys(stage: Stage) -> set[str]:
    """Of all backends."""
    _, secret = secrets_of(stage)
    return {token_for(secret, row).partition(".")[0] for row in stage.cli.backends()}


def test_a_backend_reads_no_token(stage: Stage) -> None:
    """With what it is given it can see nothing on the volume, and change nothing."""
    backend = stage.full("backend-1")
    for command in (["ls", "/run/lbctl/tokens"], ["ls", "/run/lbctl"]):
        with pytest.raises(AssertionError, match="Permission denied"):
            docker("exec", backend, *command)
    assert "read-only file system" in _refused(backend, "touch", f"/run/lbctl/tokens/{'5a' * 32}")


# Takes lists in nginx's place, and tells what it was sent with them.
LISTENING: Final = """
import http.server, json, threading
class Taker(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        print(json.dumps([self.path, self.headers["Authorization"]]), flush=True)
        self.send_response(204)
        self.end_headers()
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
for port in (8080, 9000):
    server = http.server.ThreadingHTTPServer(("", port), Taker)
    threading.Thread(target=server.serve_forever).start()
"""
# Then, with all that and with what it can read, it tries the others.
TRYING: Final = """
import json, os, sys, urllib.error, urllib.request
seen = []
for root, _, files in os.walk("/run/lbctl"):
    for file in files:
        seen.append(file)
        with open(os.path.join(root, file)) as opened:
            seen += opened.read().split()
taken, ips = json.loads(sys.argv[1]), json.loads(sys.argv[2])
fingerprints = [name.split("-", 1)[1] for name in seen if "-" in name]
guesses = [*taken, *seen, *fingerprints]
guesses += [taken[0].split(".")[0] + "." + print for print in fingerprints]
guesses += ["0" * 64 + "." + print for print in fingerprints]
statuses = {}
for ip in ips:
    for guess in guesses:
        request = urllib.request.Request(
            "http://%s:9000/ips.txt" % ip, b"6.6.6.6\\n", {"Authorization": "Bearer " + guess},
            method="PUT",
        )
        try:
            status = urllib.request.urlopen(request, timeout=5).status
        except urllib.error.HTTPError as error:
            status = error.code
        statuses.setdefault(ip, set()).add(status)
print(json.dumps({"seen": seen, "statuses": {ip: sorted(all) for ip, all in statuses.items()}}))
"""


@pytest.mark.parametrize("user", ["64102", "0"], ids=["as-nginx", "as-root"])
def test_what_one_backend_holds_and_is_sent_is_of_no_use_on_another(
    stage: Stage, user: str
) -> None:
    """Hostile code joins as any container may, by the line of the contract. It is sent lists, and
    reads all that it can of the volume: as root, with what `docker run` lets it do, everything.
    """
    others = [row["ip"] for row in stage.cli.backends()]
    stranger = stage.full("stranger-hostile")
    line = stage.join_line("stranger-hostile", "-c", LISTENING, image=LB_IMAGE)
    docker(line[0], "--user", user, "--entrypoint", "python3", "--no-healthcheck", *line[1:])
    until(lambda: stage.full("stranger-hostile") in {r["name"] for r in stage.cli.backends()})
    said = [json.loads(line) for line in docker("logs", stranger).splitlines()]
    taken = sorted({authorization.removeprefix("Bearer ") for _, authorization in said})
    row = stage.row("stranger-hostile")
    assert taken == [token_for(secrets_of(stage)[1], row)]
    printed = docker(
        "exec", "-u", user, stranger, "python3", "-c", TRYING, json.dumps(taken), json.dumps(others)
    )
    found = json.loads(printed)
    assert found["statuses"] == {ip: [401] for ip in others}
    # Root sees the names, which are no use to him; all others see nothing.
    assert set(found["seen"]) == (known(stage) if user == "0" else set())
    docker("rm", "-f", stranger)
    stage.settle(THREE)


def _refused(container: str, *command: str) -> str:
    with pytest.raises(AssertionError) as told:
        docker("exec", "-u", "0", container, *command)
    return str(told.value).lower()
