"""Containers of the two images, as an engine runs them."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lbctl.core.credentials import name_of, token_of
from lbctl.model import Backend as Server
from lbctl.model import Release
from lbctl.paths import PROGRAM_UID, WORKER_UID
from lbctl.runtime.containers import backend_body
from tests.docker.conftest import BASE, docker, inspect
from tests.support import contract
from tests.support.contract import Backend
from tests.support.deadlines import eventually, scaled, until
from tests.support.images import INPUTS_LABEL, ImageSet, ensure_images

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.docker.conftest import Project

pytestmark = pytest.mark.docker

# What the runtime creates backends with, in the words of `docker run`.
HARDENED = (
    "--read-only",
    "--tmpfs=/srv/lbctl:uid=64102,gid=64102,mode=0755,size=16m",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=64m",
    "--pids-limit=64",
)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return ensure_images()


@pytest.fixture
def start(images: ImageSet, project: Project) -> Callable[..., Backend]:
    """Starts a backend of the project with these arguments of `docker run`."""
    project.make_surroundings()
    volume = project.names.token_volume

    def on_volume(command: str) -> None:
        docker(
            "run", "--rm", "-v", f"{volume}:/run/lbctl", "--entrypoint", "sh", "--user", "0",
            images.nginx, "-c", command,
        )  # fmt: skip

    on_volume("chmod 711 /run/lbctl && mkdir -m 711 /run/lbctl/tokens")

    def run(*arguments: str) -> Backend:
        name = docker(
            "run", "-d", "--network", project.names.network, "-v", f"{volume}:/run/lbctl:ro",
            "--label", f"lbctl.project={project.name}", *arguments, images.nginx,
        )  # fmt: skip
        networks = inspect(name)["NetworkSettings"]["Networks"]
        ip = networks[project.names.network]["IPAddress"]
        token = token_of(secrets.token_hex(32), Server(name, name, ip))
        on_volume(f": > /run/lbctl/tokens/{name_of(token, ip)}")
        return Backend(ip, token)

    return run


async def serving(backend: Backend) -> Backend:
    await eventually(lambda: backend.get("/healthz").status == 200)
    return backend


def container_of(project: Project) -> str:
    (name,) = project.objects()["containers"]
    return name


@pytest.mark.parametrize("arguments", [(), HARDENED], ids=["plain", "read-only"])
async def test_serves_what_every_backend_serves(
    start: Callable[..., Backend], arguments: tuple[str, ...]
) -> None:
    backend = await serving(start(*arguments))
    contract.check_blank(backend)
    contract.check_public(backend)
    contract.check_never_stale(backend)
    contract.check_every_status_is_signed(backend)
    contract.check_admin(backend)
    contract.check_cut_off_write(backend)


def test_hardened_is_what_the_runtime_asks_for(project: Project) -> None:
    host = backend_body(project.names, Release(image="any"))["HostConfig"]
    (path, options), *others = host["Tmpfs"].items()
    assert not others
    assert (
        "--read-only" if host["ReadonlyRootfs"] else "",
        f"--tmpfs={path}:{options}",
        *(f"--cap-drop={name}" for name in host["CapDrop"]),
        *(f"--security-opt={option}" for option in host["SecurityOpt"]),
        f"--memory={host['Memory'] >> 20}m",
        f"--pids-limit={host['PidsLimit']}",
    ) == HARDENED


async def test_runs_without_privilege_and_without_secret(
    start: Callable[..., Backend], project: Project
) -> None:
    backend = await serving(start(*HARDENED))
    name = container_of(project)
    status = docker("exec", name, "sh", "-c", "cat /proc/[0-9]*/status")
    assert "nginx" in status
    for line in status.splitlines():
        field, _, values = line.partition(":")
        if field in ("Uid", "Gid"):
            assert set(values.split()) == {str(PROGRAM_UID)}
        if field in ("CapPrm", "CapEff", "CapBnd"):
            assert int(values, 16) == 0
    known, key = name_of(backend.token, backend.ip), backend.token.partition(".")[0]
    assert key not in docker("inspect", name)
    # To be passed through, not listed.
    listed = docker("exec", name, "sh", "-c", "ls /run/lbctl/tokens; :", check=False)
    assert known not in listed
    docker("exec", name, "sh", "-c", f"test -f /run/lbctl/tokens/{known}")


async def test_the_engine_finds_it_healthy(start: Callable[..., Backend], project: Project) -> None:
    start("--health-interval=200ms")
    name = container_of(project)
    await eventually(lambda: inspect(name)["State"]["Health"]["Status"] == "healthy", within=10)


async def test_a_restart_starts_with_an_empty_list(
    start: Callable[..., Backend], project: Project
) -> None:
    # Without a tmpfs the old files are still there.
    backend = await serving(start())
    assert backend.put(contract.LIST).status == 204
    docker("restart", "-t", "5", container_of(project))
    networks = inspect(container_of(project))["NetworkSettings"]["Networks"]
    again = Backend(networks[project.names.network]["IPAddress"], backend.token)
    contract.check_blank(await serving(again))


async def test_stops_gracefully_at_the_engines_word(
    start: Callable[..., Backend], project: Project
) -> None:
    await serving(start())
    name = container_of(project)
    docker("stop", "-t", str(int(scaled(10))), name)
    assert inspect(name)["State"]["ExitCode"] == 0  # not 137: nobody had to kill it


async def test_logs_one_json_object_a_request(
    start: Callable[..., Backend], project: Project
) -> None:
    backend = await serving(start())
    backend.get('/a"b\\?x', {"X-Request-Id": 'id"1', "X-Forwarded-For": "192.0.2.1"})
    name = container_of(project)
    lines = until(
        lambda: [line for line in docker("logs", name).splitlines() if "192.0.2.1" in line]
    )
    entry = json.loads(lines[0])
    assert (entry["status"], entry["request_id"], entry["target"]) == (404, 'id"1', '/a"b\\?')
    assert entry["bytes"] > 0
    assert entry["duration_s"] >= 0
    assert "/healthz" not in docker("logs", name)


def test_serves_within_half_a_second_of_its_first_process(
    start: Callable[..., Backend], project: Project
) -> None:
    """Measured inside, where neither the engine nor a busy machine is in the figure."""
    start()
    name = container_of(project)
    script = (
        "up() { cut -d' ' -f1 /proc/uptime; };"
        "rm -rf /srv/lbctl/www; started=$(up);"
        "sed -e 's/\\b8080\\b/8081/; s/\\b9000\\b/9001/; s/nginx.pid/other.pid/'"
        " /etc/nginx/nginx.conf > /srv/lbctl/other.conf;"
        "sed 's|/etc/nginx/nginx.conf|/srv/lbctl/other.conf|' /usr/local/bin/lbctl-backend"
        " > /srv/lbctl/other; sh /srv/lbctl/other 2>/dev/null >&2 &"
        "until wget -q -O /dev/null http://127.0.0.1:8081/healthz 2>/dev/null;"
        " do usleep 5000; done; echo $started $(up)"
    )
    started, served = map(float, docker("exec", name, "sh", "-c", script).split())
    assert served - started < scaled(0.5)


def test_lb_image_holds_what_the_lb_needs(images: ImageSet) -> None:
    script = (
        "import aiodocker, aiohttp, click, ctypes, lbctl.config, prometheus_client, rich, ssl,"
        " sqlite3, uvloop; uvloop.run(__import__('asyncio').sleep(0)); print(lbctl.__version__)"
    )
    printed = docker(
        "run", "--rm", "--read-only", "--network=none", "--entrypoint=python3", images.lb,
        "-W", "error", "-c", script,
    )  # fmt: skip
    assert images.lb.endswith(f":{printed}")


def test_lb_image_is_described(images: ImageSet) -> None:
    config = inspect(images.lb)["Config"]
    assert config["Entrypoint"] == ["python3", "-m", "lbctl"]
    assert config["Cmd"] == ["serve", "--runtime", "docker"]
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9900/tcp"}
    assert INPUTS_LABEL in config["Labels"]
    account = docker("run", "--rm", "--entrypoint=id", images.lb, "lbctl").split()
    assert account[0] == f"uid={WORKER_UID}(lbctl)"


def test_making_the_images_again_makes_nothing(images: ImageSet) -> None:
    before = [inspect(image)["Id"] for image in (images.nginx, images.lb)]
    assert ensure_images() == images
    assert [inspect(image)["Id"] for image in (images.nginx, images.lb)] == before


def test_what_is_said_about_the_base_is_so(images: ImageSet) -> None:
    release = docker("run", "--rm", "alpine:3.10", "sh", "-c", "cat /etc/alpine-release; :")
    assert release.startswith("3.10") == (images.base == "alpine:3.10")


def test_both_stand_on_the_base_they_were_tested_on(images: ImageSet) -> None:
    if images.base != BASE:
        pytest.skip("a stand-in is no release")
    script = Path(__file__).parents[2] / "images" / "base" / "check.sh"
    release = docker("run", "--rm", "-i", BASE, "sh", "-s", stdin=script.read_text())
    for image in (images.nginx, images.lb):
        said = docker("run", "--rm", "--entrypoint", "cat", image, "/usr/share/lbctl/base.sha256")
        assert said == release
