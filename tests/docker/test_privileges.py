"""What the processes of a running stack may do, as the kernel and the engine have it, and what
somebody who has taken one of them over gets with that.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from lbctl.paths import CONTAINER, GUARD_SOCKET, WORKER_UID
from tests.docker.conftest import docker, inspect
from tests.docker.stage import Stage, new_cli, staged
from tests.support.cli import get
from tests.support.credentials import token_for
from tests.support.deadlines import until
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can look into the containers"),
]

NGINX_UID: Final = 64102
POD_UID: Final = 65534
DROPS_PRIVILEGES: Final = {"CHOWN", "KILL", "SETGID", "SETUID"}
"""What makes a worker another user's, and ends it then."""
CAPABILITIES: Final = {0: "CHOWN", 5: "KILL", 6: "SETGID", 7: "SETUID"}  # capability.h
ENGINE_SOCKETS: Final = ("/var/run/docker.sock", "/run/docker.sock")
SOCKETS: Final = [*ENGINE_SOCKETS, str(GUARD_SOCKET)]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    ensure_images()
    with staged(new_cli()) as stage:
        stage.cli.ok("up")
        stage.settle({f"backend-{number}" for number in (1, 2, 3)})
        until(stage.both_lbs)
        yield stage


def containers(stage: Stage) -> dict[str, dict[str, Any]]:
    """Everything of the project, by the name without the project's."""
    names = stage.project.objects()["containers"]
    return {name.removeprefix(f"{stage.cli.project}-"): inspect(name) for name in names}


def role(name: str) -> str:
    return re.split(r"-", name)[0]


def test_containers_have_what_they_need_and_no_more(stage: Stage) -> None:
    found = containers(stage)
    assert {role(name) for name in found} == {"pod", "lb", "guard", "backend"}
    for name, facts in found.items():
        host = facts["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert not host["Privileged"], name
        assert host["CapDrop"] == ["ALL"], name
        allowed = DROPS_PRIVILEGES if role(name) == "lb" else set()
        assert set(host["CapAdd"] or []) == allowed, name
        # The engine's own seccomp profile holds where nobody names another.
        assert host["SecurityOpt"] == ["no-new-privileges"], name
        assert 0 < host["Memory"] <= 1 << 30, name
        assert 0 < host["PidsLimit"] <= 256, name
        assert not host["Devices"], name
        assert not host["PidMode"], name
        assert host["IpcMode"] in ("private", "none"), name
        assert host["LogConfig"]["Config"]["max-size"], name


def test_only_the_guard_holds_the_engines_socket(stage: Stage) -> None:
    holders = set()
    for name, facts in containers(stage).items():
        for mount in facts["Mounts"]:
            if mount["Type"] == "bind":
                assert mount["Source"] in ENGINE_SOCKETS, (name, mount)
                holders.add(name)
    assert holders == {"guard"}
    assert inspect(stage.full("guard"))["HostConfig"]["NetworkMode"] == "none"


def test_backends_can_write_to_their_web_root_and_nowhere_else(stage: Stage) -> None:
    for name, facts in containers(stage).items():
        if role(name) == "backend":
            assert [mount for mount in facts["Mounts"] if mount["RW"]] == []
            assert list(facts["HostConfig"]["Tmpfs"]) == ["/srv/lbctl"]


def test_only_traffic_and_the_admin_port_are_published(stage: Stage) -> None:
    for name, facts in containers(stage).items():
        published = {port for port, places in facts["NetworkSettings"]["Ports"].items() if places}
        assert published == ({"8080/tcp", "9900/tcp"} if name == "pod" else set()), name
    places = inspect(stage.full("pod"))["NetworkSettings"]["Ports"]["9900/tcp"]
    assert {place["HostIp"] for place in places} == {"127.0.0.1"}


def pids(container: str) -> list[int]:
    """Of all its processes, as the machine counts them, but for those that the engine lets look
    after its health now and then.
    """
    rows = [row.split() for row in docker("top", container, "-o", "pid,ppid").splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent in rows}
    first = int(inspect(container)["State"]["Pid"])

    def is_of_the_first(pid: int) -> bool:
        return pid == first or (pid in parents and is_of_the_first(parents[pid]))

    return [pid for pid in parents if is_of_the_first(pid)]


def status_of(pid: int) -> dict[str, str]:
    """proc(5)'s status."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def capabilities(status: dict[str, str]) -> set[str]:
    mask = int(status["CapPrm"], 16) | int(status["CapEff"], 16) | int(status["CapAmb"], 16)
    return {CAPABILITIES.get(bit, str(bit)) for bit in range(64) if mask >> bit & 1}


def uids(status: dict[str, str]) -> set[int]:
    return set(map(int, (*status["Uid"].split(), *status["Gid"].split())))


def test_processes_run_as_who_they_should(stage: Stage) -> None:
    for name in containers(stage):
        seen = []
        for pid in pids(stage.full(name)):
            status = status_of(pid)
            assert status["NoNewPrivs"] == "1", (name, status)
            assert status["Seccomp"] == "2", (name, status)  # a filter
            (user,) = uids(status)
            seen.append(user)
            if user:
                assert capabilities(status) == set(), (name, status)
            elif role(name) == "lb":
                assert capabilities(status) == DROPS_PRIVILEGES, (name, status)
            else:
                assert capabilities(status) == set(), (name, status)
            if user == WORKER_UID:
                assert status["Groups"].split() == []
        expected = {"backend": {NGINX_UID}, "pod": {POD_UID}, "guard": {0}}
        if role(name) == "lb":
            assert sorted(seen) == [0, 0, WORKER_UID, WORKER_UID], name
        else:
            assert set(seen) == expected[role(name)], name


def workers(container: str) -> list[int]:
    return [pid for pid in pids(container) if uids(status_of(pid)) == {WORKER_UID}]


def open_files(pid: int) -> set[str]:
    held = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile: a client's
            held.add(str(fd.readlink()))
    return held


def test_workers_hold_nothing_open_but_sockets(stage: Stage) -> None:
    """No file of the volumes, no lock, no pipe to a secret: what is open is taken over too."""
    for lb in stage.lbs:
        assert len(workers(lb)) == 2
        for pid in workers(lb):
            held = open_files(pid)
            strange = {
                one
                for one in held
                if not one.startswith(("socket:", "pipe:", "anon_inode:"))
                and one not in ("/dev/null", "/tmp/alive.lock")
            }
            assert strange == set()


HOSTILE = r"""
import errno, json, os, signal, socket, sys, urllib.error, urllib.request

os.setgroups([])  # as workers have none
os.setgid(64101)
os.setuid(64101)
out = {"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups()}


def tried(name, attempt):
    try:
        out[name] = repr(attempt())
    except OSError as error:
        out[name] = errno.errorcode.get(error.errno, str(error))


def told(path, method="GET", body=None, **headers):
    request = urllib.request.Request("http://127.0.0.1:9900" + path, body, headers, method=method)
    try:
        return urllib.request.urlopen(request, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code


def unix(path):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(5)
    one.connect(path)
    return "connected"


def bound(port, *options):
    one = socket.socket()
    for option in options:
        one.setsockopt(socket.SOL_SOCKET, option, 1)
    one.bind(("0.0.0.0", port))
    one.listen()
    return "bound"


for path in json.loads(sys.argv[1]):
    tried("read " + path, lambda: open(path, "rb").read())
for path in json.loads(sys.argv[2]):
    tried("list " + path, lambda: os.listdir(path))
    tried("write " + path, lambda: open(path + "/x", "w"))
for path in json.loads(sys.argv[3]):
    tried("connect " + path, lambda: unix(path))
for port in (8080, 9900):
    tried("share %d" % port, lambda: bound(port, socket.SO_REUSEPORT))
    tried("bind %d" % port, lambda: bound(port, socket.SO_REUSEADDR, socket.SO_REUSEPORT))
tried("environment of the supervisor", lambda: open("/proc/1/environ", "rb").read())
tried("memory of the supervisor", lambda: open("/proc/1/mem", "rb").read(1))
tried("its files", lambda: os.listdir("/proc/1/fd"))
tried("its root", lambda: os.listdir("/proc/1/root"))
tried("its end", lambda: os.kill(1, signal.SIGKILL))
tried("root", lambda: os.setuid(0))
tried("a raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
for path in json.loads(sys.argv[4]):
    out["GET " + path] = told(path)
for path in json.loads(sys.argv[5]):
    out["POST " + path] = told(path, "POST", b"{}", **{"Content-Type": "application/json"})
    out["guess " + path] = told(
        path, "POST", b"{}",
        **{"Content-Type": "application/json", "Authorization": "Bearer " + "0" * 64},
    )
for ip in json.loads(sys.argv[6]):
    request = urllib.request.Request(
        "http://%s:9000/ips.txt" % ip, b"6.6.6.6\n", {"Authorization": "Bearer " + "0" * 64},
        method="PUT",
    )
    try:
        out["PUT to " + ip] = urllib.request.urlopen(request, timeout=5).status
    except urllib.error.HTTPError as error:
        out["PUT to " + ip] = error.code
print(json.dumps(out))
"""
SECRET_FILES: Final = [
    str(path)
    for path in (
        CONTAINER.admin_token, CONTAINER.publish_secret, CONTAINER.serve, CONTAINER.scale,
        CONTAINER.membership, CONTAINER.counters, CONTAINER.guard_counters,
        CONTAINER.retiring_token,
    )
]  # fmt: skip
CLOSED_DIRECTORIES: Final = [
    str(path)
    for path in (
        CONTAINER.state,
        CONTAINER.secrets,
        CONTAINER.tokens,
        CONTAINER.run,
        GUARD_SOCKET.parent,
    )
]
READ: Final = [
    "/", "/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/backends",
    "/api/v1/settings", "/api/v1/openapi.json", "/api/v1/history", "/api/v1/events", "/api/v1/live",
    "/assets/x", "/nothing",
]  # fmt: skip
CHANGE: Final = [
    "/api/v1/scale", "/api/v1/reload", "/api/v1/rollout", "/api/v1/backends/x/drain",
    "/api/v1/backends/x/undrain", "/api/v1/token/rotate",
]  # fmt: skip


def hostile(lb: str, ips: list[str]) -> dict[str, Any]:
    """What the code of somebody who has taken over a worker gets."""
    lists = (SECRET_FILES, CLOSED_DIRECTORIES, SOCKETS, READ, CHANGE, ips)
    printed = docker(
        "exec", lb, "python3", "-c", HOSTILE,
        *map(json.dumps, lists),
    )  # fmt: skip
    found: dict[str, Any] = json.loads(printed)
    return found


def test_a_worker_that_was_taken_over_reaches_no_secret_and_changes_nothing(stage: Stage) -> None:
    before = stage.cli.status()
    listed = get(f"{stage.cli.url}/ips.txt")
    ips = [row["ip"] for row in stage.cli.backends()]
    for lb in stage.lbs:
        got = hostile(lb, ips)
        assert (got.pop("uid"), got.pop("gid"), got.pop("groups")) == (WORKER_UID, WORKER_UID, [])
        for path in SECRET_FILES:
            assert got.pop(f"read {path}") in ("EACCES", "ENOENT"), path
        for path in CLOSED_DIRECTORIES:
            assert got.pop(f"list {path}") == "EACCES", path
            assert got.pop(f"write {path}") in ("EACCES", "EROFS"), path
        for path in SOCKETS:
            assert got.pop(f"connect {path}") in ("EACCES", "ENOENT"), path
        # The addresses are taken: who binds one too must be the user who did it first.
        for port in (8080, 9900):
            assert got.pop(f"share {port}") == got.pop(f"bind {port}") == "EADDRINUSE"
        for what in ("environment of", "memory of"):
            assert got.pop(f"{what} the supervisor") == "EACCES"
        assert {got.pop("its files"), got.pop("its root")} == {"EACCES"}
        assert {got.pop("its end"), got.pop("root"), got.pop("a raw socket")} == {"EPERM"}
        # Every endpoint, every backend: 401.
        assert set(got.values()) == {401}, got
        assert len(got) == len(READ) + 2 * len(CHANGE) + len(ips)
    after = stage.cli.status()
    assert after["generation"] == before["generation"]
    assert after["processes"] == before["processes"]
    assert get(f"{stage.cli.url}/ips.txt") == listed


def test_every_route_of_the_admin_port_was_tried(stage: Stage) -> None:
    """The lists above are all there is."""
    document = json.loads(get(f"{stage.cli.admin_url}/api/v1/openapi.json"))
    for path, methods in document["paths"].items():
        plain = path.replace("{id}", "x").replace("{file}", "x")
        assert set(methods) <= {"get", "post", "parameters"}
        assert ("get" in methods) == (plain in READ), path
        assert ("post" in methods) == (plain in CHANGE), path


ASK = """
import json, sys, urllib.error, urllib.request
for line in json.loads(sys.argv[1]):
    method, url = line.split()
    request = urllib.request.Request(url, b"6.6.6.6\\n" if method == "PUT" else None, method=method)
    try:
        print(urllib.request.urlopen(request, timeout=3).status)
    except urllib.error.HTTPError as error:
        print(error.code)
    except OSError as error:
        print("none")
"""


def asked_from(network: str, *lines: str) -> list[str]:
    """The statuses that a container of somebody else gets on that network, "none" for none."""
    image = docker("inspect", "-f", "{{.Config.Image}}", network.partition(" ")[0])
    printed = docker(
        "run", "--rm", "--network", network.rpartition(" ")[2], "--entrypoint", "python3", image,
        "-c", ASK, json.dumps(list(lines)),
    )  # fmt: skip
    return printed.split()


def test_backends_reach_no_admin_endpoint_without_its_token(stage: Stage) -> None:
    """A neighbour on the project's network, which a backend that was taken over is."""
    pod, ips = stage.address("pod"), [row["ip"] for row in stage.cli.backends()]
    lines = [f"GET http://{pod}:9900{path}" for path in READ]
    lines += [f"PUT http://{ip}:9000/ips.txt" for ip in ips]
    lines += [f"POST http://{pod}:9900/api/v1/scale"]
    statuses = asked_from(f"{stage.full('pod')} {stage.cli.project}", *lines)
    assert statuses == ["401"] * len(lines)


def test_from_another_network_only_the_published_port_is_reached(stage: Stage) -> None:
    pod, ips = stage.address("pod"), [row["ip"] for row in stage.cli.backends()]
    closed = [f"GET http://{pod}:9900/", f"GET http://{pod}:8080/"]
    closed += [f"PUT http://{ips[0]}:9000/ips.txt", f"GET http://{ips[0]}:8080/"]
    assert asked_from(f"{stage.full('pod')} bridge", *closed) == ["none"] * len(closed)


def test_the_proxy_leads_to_no_admin_port(stage: Stage) -> None:
    """Whatever a client writes into target and Host, the request goes to port 8080 of a backend,
    and is refused there.
    """
    listed = get(f"{stage.cli.url}/ips.txt")
    ip = stage.cli.backends()[0]["ip"]
    secret = docker("exec", stage.leader, "cat", str(CONTAINER.publish_secret)).strip()
    token = token_for(secret, stage.cli.backends()[0])
    for target, host in (
        ("/ips.txt", f"{ip}:9000"),
        (f"http://{ip}:9000/ips.txt", f"{ip}:9000"),
        (f"http://{ip}:9000/ips.txt", "localhost"),
        (f"//{ip}:9000/ips.txt", "localhost"),
        ("/stub_status", f"{ip}:9000"),
        ("/api/v1/status", "localhost:9900"),
        ("http://127.0.0.1:9900/api/v1/status", "127.0.0.1:9900"),
        ("/metrics", "127.0.0.1:9900"),
    ):
        for method in ("GET", "PUT"):
            answer = curl(
                stage.cli.url, "-X", method, "--request-target", target, "-H", f"Host: {host}",
                "-H", f"Authorization: Bearer {token}",
                *(["--data-binary", "6.6.6.6"] if method == "PUT" else []),
            )  # fmt: skip
            status, _, body = answer.partition(" ")
            assert status != "200" or body == listed, (method, target, answer)
            assert status in ("200", "400", "403", "404", "405"), (method, target, answer)
            assert "lbctl_" not in body, (method, target, answer)
            assert "processes" not in body, (method, target, answer)
    assert get(f"{stage.cli.url}/ips.txt") == listed


def curl(url: str, *arguments: str) -> str:
    done = subprocess.run(
        ["curl", "-s", "-m", "10", "-w", "\n%{http_code}", *arguments, url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return f"{status} {body}"
