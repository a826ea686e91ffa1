"""A stack on a real engine. An image that only sleeps stands in for the lb and its backends:
what the lb does inside is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import secrets
import socket
import tarfile
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from lbctl import assets
from lbctl.config import Config, Control
from lbctl.deploy import Address, StackOptions, images
from lbctl.deploy import docker as docker_module
from lbctl.deploy import pieces as pieces_module
from lbctl.deploy.docker import DockerStack
from lbctl.errors import EngineError, ImageError, OperationError, UsageError
from lbctl.runtime.containers import ENGINE_SOCKET, guard_body, lb_body
from tests.docker.conftest import BASE, docker, docker_aside, inspect
from tests.support.deadlines import scaled
from tests.support.registry import registry
from tests.support.told import Told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lbctl.runtime.containers import Json
    from lbctl.runtime.engine import Engine
    from tests.docker.conftest import Project

pytestmark = pytest.mark.docker

ABSENT = "127.0.0.1:1/lbctl-absent:1"  # a registry that refuses at once


@pytest.fixture
def told() -> Told:
    return Told()


@pytest_asyncio.fixture
async def stack(engine: Engine, project: Project) -> DockerStack:
    return DockerStack(project.name, engine)


@pytest.fixture
def options(project: Project, sleeper: str, free_ports: list[int]) -> StackOptions:
    config = Config(
        project=project.name, bind="127.0.0.1", port=free_ports[0], admin_port=free_ports[1]
    )
    return StackOptions(config, lb_image=sleeper, backend_image=sleeper)


def with_config(options: StackOptions, **changes: object) -> StackOptions:
    return replace(options, config=replace(options.config, **changes))  # type: ignore[arg-type]


def container_id(name: str) -> str:
    return str(inspect(name)["Id"])


def pieces(project: Project, lbs: str = "ab") -> list[str]:
    """The containers of a stack that has no backend yet, in order of their names."""
    names = project.names
    return [names.guard, *(names.lb(lb) for lb in lbs), names.pod]


async def test_up_find_and_down(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    assert await stack.find() is None

    found = await stack.up(options, told)
    assert found == await stack.find()
    lbs = f"{project.name}-lb-a and {project.name}-lb-b"
    assert (found.lb, found.running, found.runtime) == (lbs, True, "docker")
    assert found.traffic == Address("127.0.0.1", options.config.port)
    assert found.admin == Address("127.0.0.1", options.config.admin_port)
    assert project.objects() == {
        "containers": pieces(project),
        "networks": [project.name],
        "volumes": [f"{project.name}_{name}" for name in ("guard", "state", "token")],
    }

    project.run("stranger")
    assert await stack.down(told) is True
    assert project.left() == {"containers": [], "networks": [], "volumes": []}
    assert await stack.find() is None
    assert await stack.down(told) is False


async def test_how_the_lbs_are_confined(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    await stack.up(with_config(options, workers=3, control=Control(drain_timeout_s=5.0)), told)
    facts = inspect(project.names.lb("b"))
    host = facts["HostConfig"]
    assert host["NetworkMode"] == f"container:{container_id(project.names.pod)}"
    assert (host["Memory"], host["PidsLimit"]) == (1 << 30, 256)
    assert sorted(host["CapAdd"]) == ["CHOWN", "KILL", "SETGID", "SETUID"]
    mounts = {mount["Destination"]: mount for mount in facts["Mounts"]}
    assert mounts["/run/lbctl"]["Name"] == project.names.token_volume
    assert mounts["/var/lib/lbctl"]["Name"] == project.names.state_volume
    assert mounts["/run/lbctl-guard"]["Name"] == project.names.guard_volume
    assert mounts["/run/lbctl-guard"]["RW"] is False
    assert len(mounts) == 3
    settings = {e.partition("=")[0]: e.partition("=")[2] for e in facts["Config"]["Env"]}
    settings.pop("PATH")
    assert settings == {
        "LBCTL_PROJECT": project.name,
        "LBCTL_WORKERS": "3",
        "LBCTL_DRAIN_TIMEOUT_S": "5.0",
        "LBCTL_BACKEND_IMAGE": options.backend_image,
    }


async def test_what_holds_for_every_piece(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    await stack.up(options, told)
    for name in pieces(project):
        host = inspect(name)["HostConfig"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert host["ReadonlyRootfs"] is True
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    pod, guard = inspect(project.names.pod), inspect(project.names.guard)
    assert pod["HostConfig"]["NetworkMode"] == project.name
    assert pod["HostConfig"]["CapAdd"] is None
    assert pod["Mounts"] == []
    assert pod["Config"]["User"] == "65534:65534"
    assert guard["HostConfig"]["NetworkMode"] == "none"
    mounts = {mount["Destination"]: mount["RW"] for mount in guard["Mounts"]}
    assert mounts == {
        "/var/run/docker.sock": True, "/run/lbctl-guard": True, "/var/lib/lbctl": False,
    }  # fmt: skip


async def test_up_again_changes_nothing(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    def state() -> list[tuple[str, str]]:
        found = [inspect(name) for name in pieces(project)]
        return [(facts["Id"], facts["State"]["StartedAt"]) for facts in found]

    await stack.up(options, told)
    before, notes = state(), list(told.notes)
    await stack.up(options, told)
    # What processes are set to is the reload's affair, not the containers'.
    await stack.up(with_config(options, access_log="off"), told)
    assert state() == before
    assert told.notes == notes


async def test_up_brings_lbs_that_had_the_engine_s_socket_to_the_new_shape(
    stack: DockerStack, project: Project, options: StackOptions, told: Told,
) -> None:  # fmt: skip
    """As the version before made them: no volume of the guard's, the socket in every lb."""

    def without_guard_volume(body: Json) -> Json:
        mounts = body["HostConfig"]["Mounts"]
        kept = [one for one in mounts if one["Source"] != project.names.guard_volume]
        socket_mount = {"Type": "bind", "Source": ENGINE_SOCKET, "Target": ENGINE_SOCKET}
        body["HostConfig"]["Mounts"] = [*kept, socket_mount]
        return body

    with pytest.MonkeyPatch.context() as before:
        before.setattr(pieces_module, "lb_body", lambda *args: without_guard_volume(lb_body(*args)))

        def old_guard(*args: Any) -> Json:
            body = guard_body(*args)
            body["HostConfig"]["Mounts"] = body["HostConfig"]["Mounts"][:1]
            return body

        before.setattr(docker_module, "guard_body", old_guard)
        await stack.up(options, told)
    docker("volume", "rm", project.names.guard_volume)
    pod = container_id(project.names.pod)
    lbs = {lb: container_id(project.names.lb(lb)) for lb in "ab"}
    assert "docker.sock" in str(inspect(project.names.lb("a"))["Mounts"])

    await stack.up(options, told)
    assert project.objects()["containers"] == pieces(project)
    assert project.names.guard_volume in project.objects()["volumes"]
    assert container_id(project.names.pod) == pod
    for lb_name, old in lbs.items():
        facts = inspect(project.names.lb(lb_name))
        assert facts["Id"] != old
        assert "docker.sock" not in str(facts["Mounts"])
    assert any("lbctl-guard" in str(one) for one in inspect(project.names.guard)["Mounts"])


async def test_up_starts_what_ended(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    await stack.up(options, told)
    before = {name: container_id(name) for name in pieces(project)}
    docker("stop", "-t", "0", *before)
    ended = await stack.find()
    assert ended is not None
    assert not ended.running
    assert ended.traffic.port == options.config.port
    assert (await stack.up(options, told)).running
    assert {name: container_id(name) for name in pieces(project)} == before
    pod = inspect(project.names.pod)["State"]["StartedAt"]
    assert all(inspect(project.names.lb(lb))["State"]["StartedAt"] > pod for lb in "ab")


async def test_as_many_lbs_as_are_wanted(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    for lbs in ("a", "abc", "ab"):
        await stack.up(replace(options, lbs=len(lbs)), told)
        assert project.objects()["containers"] == pieces(project, lbs)


async def test_a_kernel_that_hands_no_connections_over(
    stack: DockerStack, project: Project, options: StackOptions, told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("lbctl.runtime.containers.MIGRATE_SYSCTL", "net.ipv4.tcp_no_such")
    monkeypatch.setattr("lbctl.deploy.pieces.MIGRATE_SYSCTL", "net.ipv4.tcp_no_such")
    assert (await stack.up(options, told)).running
    assert any("older than Linux 5.14" in note for note in told.notes)
    assert project.objects()["containers"] == pieces(project)


async def test_other_ports_move_everything(
    stack: DockerStack, project: Project, options: StackOptions, told: Told, free_ports: list[int]
) -> None:
    await stack.up(options, told)
    first = container_id(project.names.pod)
    moved = with_config(options, port=free_ports[2])
    found = await stack.up(moved, told)
    assert found.running
    assert found.traffic.port == free_ports[2]
    assert told.notes[-1] == "other ports or files: starting the lbs again, which breaks traffic"
    assert container_id(project.names.pod) != first
    assert project.objects()["containers"] == pieces(project)
    networks = {inspect(project.names.lb(lb))["HostConfig"]["NetworkMode"] for lb in "ab"}
    assert networks == {f"container:{container_id(project.names.pod)}"}


async def test_a_move_that_fails_leaves_the_old_stack_running(
    stack: DockerStack, project: Project, options: StackOptions, told: Told, free_ports: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await stack.up(options, told)
    before = {name: container_id(name) for name in pieces(project)[1:]}
    monkeypatch.setattr("lbctl.deploy.docker.refuse_listened", lambda _: None)
    with (
        socket.create_server(("127.0.0.1", free_ports[2])),
        pytest.raises(OperationError, match=f"^port {free_ports[2]} is in use"),
    ):
        await stack.up(with_config(options, port=free_ports[2]), told)
    found = await stack.find()
    assert found is not None
    assert found.running
    assert found.traffic.port == options.config.port
    assert {name: container_id(name) for name in pieces(project)[1:]} == before
    assert all(inspect(name)["State"]["Running"] for name in pieces(project))


async def test_another_image_replaces_the_lbs_and_not_their_address(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    await stack.up(options, told)
    before = {name: container_id(name) for name in pieces(project)}
    other = f"{project.name}-other:1"
    docker("build", "-t", other, "-", stdin=f"FROM {options.lb_image}\nLABEL another=1\n")
    try:
        await stack.up(replace(options, lb_image=other), told)
        after = {name: container_id(name) for name in pieces(project)}
        same = {name for name in before if before[name] == after[name]}
        assert same == {project.names.pod}
        assert project.objects()["containers"] == pieces(project)
    finally:
        await stack.down(told)
        docker("rmi", other)


async def test_a_replacement_that_fails_leaves_the_old_one_running(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    await stack.up(options, told)
    before = {name: container_id(name) for name in pieces(project)}
    broken = f"{project.name}-broken:1"
    docker("build", "-t", broken, "-", stdin=f'FROM {BASE}\nENTRYPOINT ["/not-there"]\n')
    try:
        with pytest.raises(EngineError, match="not-there"):
            await stack.up(replace(options, lb_image=broken), told)
        found = await stack.find()
        assert found is not None
        assert found.running
        assert {name: container_id(name) for name in pieces(project)} == before
        assert project.objects()["containers"] == pieces(project)
    finally:
        docker("rmi", broken)


async def test_what_an_interrupted_replacement_left_is_cleared(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    await stack.up(options, told)
    label = ["--label", f"lbctl.project={project.name}", "--label", "lbctl.role=lb"]
    docker(
        "create", "--name", f"{project.names.lb('a')}-next", *label, "--label", "lbctl.lb=a", BASE
    )
    docker("create", "--name", f"{project.name}-lb", *label, BASE)  # of another layout
    # The other half: the old one is gone, and the new one has not got its name yet.
    docker("rename", project.names.lb("b"), f"{project.names.lb('b')}-next")
    await stack.up(options, told)
    assert project.objects()["containers"] == pieces(project)


async def test_a_first_start_that_fails_leaves_nothing(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    broken = f"{project.name}-broken:1"
    docker("build", "-t", broken, "-", stdin=f'FROM {BASE}\nENTRYPOINT ["/not-there"]\n')
    try:
        with pytest.raises(EngineError, match="not-there"):
            await stack.up(replace(options, lb_image=broken), told)
    finally:
        docker("rmi", broken)
    assert project.objects() == {"containers": [], "networks": [], "volumes": []}


async def test_an_up_that_is_cancelled_leaves_nothing(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    # At every point of it, as far as one can aim.
    for delay_s in (0.02, 0.1, 0.2, 0.3, 0.4):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await stack.up(options, told)
                await stack.down(told)
        assert project.objects() == {"containers": [], "networks": [], "volumes": []}


async def test_a_port_of_another_project_is_refused(
    stack: DockerStack,
    engine: Engine,
    project: Project,
    other_project: Project,
    options: StackOptions,
    told: Told,
) -> None:
    await stack.up(options, told)
    before = container_id(project.names.pod)
    second = DockerStack(other_project.name, engine)
    with pytest.raises(OperationError) as caught:
        await second.up(with_config(options, project=other_project.name), told)
    assert str(caught.value) == (
        f"port {options.config.port} is in use by container {project.names.pod}; "
        "choose another with --port"
    )
    assert other_project.objects() == {"containers": [], "networks": [], "volumes": []}
    assert container_id(project.names.pod) == before
    assert inspect(before)["State"]["Running"]


async def test_a_port_of_a_program_is_refused(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    with (
        socket.create_server(("127.0.0.1", options.config.admin_port)),
        pytest.raises(OperationError) as caught,
    ):
        await stack.up(options, told)
    assert str(caught.value) == (
        f"port {options.config.admin_port} is in use by another program; "
        "choose another with --admin-port"
    )
    assert project.objects() == {"containers": [], "networks": [], "volumes": []}


async def test_a_port_that_only_the_engine_finds_taken(
    stack: DockerStack,
    project: Project,
    options: StackOptions,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As with an engine elsewhere: nothing can be tried from here.
    monkeypatch.setattr("lbctl.deploy.docker.refuse_listened", lambda _: None)
    with (
        socket.create_server(("127.0.0.1", options.config.port)),
        pytest.raises(OperationError, match=f"^port {options.config.port} is in use by"),
    ):
        await stack.up(options, told)
    assert project.objects() == {"containers": [], "networks": [], "volumes": []}


async def test_an_address_this_machine_lacks_is_refused(
    stack: DockerStack,
    project: Project,
    options: StackOptions,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = with_config(options, bind="192.0.2.1")
    with pytest.raises(UsageError, match=r"no address 192\.0\.2\.1"):
        await stack.up(elsewhere, told)
    monkeypatch.setattr("lbctl.deploy.docker.refuse_listened", lambda _: None)
    with pytest.raises(UsageError, match=r"no address 192\.0\.2\.1"):
        await stack.up(elsewhere, told)
    assert project.objects() == {"containers": [], "networks": [], "volumes": []}


async def test_what_is_not_lbctl_s_is_left_alone(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    docker("volume", "create", project.names.state_volume)
    try:
        with pytest.raises(UsageError, match=f"volume {project.names.state_volume} that is not"):
            await stack.up(options, told)
        assert await stack.down(told) is False
    finally:
        docker("volume", "rm", project.names.state_volume)
    docker("network", "create", project.names.network)
    try:
        with pytest.raises(UsageError, match=f"network {project.name} that is not"):
            await stack.up(options, told)
        assert await stack.down(told) is False
    finally:
        docker("network", "rm", project.names.network)


async def test_an_lb_of_compose_stays_as_it_is(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    project.make_surroundings()
    docker("volume", "create", "--label", f"lbctl.project={project.name}",
           project.names.state_volume)  # fmt: skip
    port = options.config.port
    label = ["--label", f"lbctl.project={project.name}", "--label"]
    docker(
        "run", "-d", "--name", project.names.pod, "--network", project.name,
        *label, "lbctl.role=pod", "-p", f"127.0.0.1:{port}:8080", BASE, "sleep", "600",
    )  # fmt: skip
    docker(
        "create", "--name", project.names.lb("a"), "--network", f"container:{project.names.pod}",
        *label, "lbctl.role=lb", "--label", "lbctl.lb=a", BASE, "sleep", "600",
    )  # fmt: skip
    before = project.objects()["containers"]
    found = await stack.up(options, told)
    assert found.running
    assert not found.managed
    assert project.objects()["containers"] == before
    assert any("was not made by" in note for note in told.notes)


async def test_a_stranger_on_the_network_is_named(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    await stack.up(options, told)
    stranger = f"{project.name}-stranger"
    docker("run", "-d", "--name", stranger, "--network", project.name, BASE, "sleep", "600")
    try:
        with pytest.raises(OperationError, match=f"still used by {stranger}"):
            await stack.down(told)
    finally:
        docker("rm", "-f", stranger)
    assert await stack.down(told) is True


@pytest.mark.parametrize("name", ["bridge", "host", "none", "default"])
async def test_docker_s_own_networks_are_no_project(engine: Engine, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        DockerStack(name, engine)


async def test_the_admin_token_is_read_from_the_lb(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    with pytest.raises(OperationError, match="no stack"):
        await stack.admin_token()
    await stack.up(options, told)
    with pytest.raises(OperationError, match="not made its admin token yet"):
        await stack.admin_token()
    docker("exec", project.names.lb("b"), "sh", "-c",
           "umask 377; echo 5ecre7 > /var/lib/lbctl/admin-token")  # fmt: skip
    assert await stack.admin_token() == "5ecre7"


async def test_logs(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    await stack.up(options, told)
    for name in ("backend-2", "backend-10"):
        project.run(name)
    a, b, two, ten = (
        f"{project.name}-{name}" for name in ("lb-a", "lb-b", "backend-2", "backend-10")
    )
    width = len(ten)

    async def all_lines() -> list[str]:
        """But those of the guard, which has as much to say as it likes."""
        lines = [str(line) async for line in stack.logs(follow=False, tail=10)]
        return [line for line in lines if line.partition(" ")[0] != project.names.guard]

    end = time.monotonic() + scaled(10)
    while len(lines := await all_lines()) < 8:
        assert time.monotonic() < end, lines
    assert sorted(lines[:2]) == [f"{a:{width}} | oops", f"{a:{width}} | up"]
    by = [line.partition(" ")[0] for line in lines]
    assert by == [a, a, b, b, two, two, ten, ten]

    followed = stack.logs(follow=True, tail=0)
    waiting = asyncio.ensure_future(anext(followed))
    docker("kill", "--signal", "TERM", two)  # its stream ends, the others go on
    async with asyncio.timeout(scaled(10)):
        while not waiting.done():  # until it follows
            printing = "printf 'a\\033[31mb\\n' > /proc/1/fd/1"
            await docker_aside("exec", ten, "sh", "-c", printing)
        assert str(await waiting) == f"{ten} | a?[31mb"
    await followed.aclose()  # type: ignore[attr-defined]


async def test_an_image_that_cannot_be_had(
    stack: DockerStack, project: Project, options: StackOptions, told: Told
) -> None:
    begin = time.monotonic()
    with pytest.raises(ImageError, match=rf"image {ABSENT} cannot be pulled: .*refused"):
        await stack.up(replace(options, backend_image=ABSENT), told)
    assert time.monotonic() - begin < scaled(10)
    assert project.objects() == {"containers": [], "networks": [], "volumes": []}


@pytest_asyncio.fixture
async def own_image(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A reference that is lbctl's own, and built from what the test says."""
    ref = f"lbctl-test-{secrets.token_hex(5)}:1"
    monkeypatch.setattr(images, "_OWN", {ref: "small"})
    yield ref
    docker("rmi", "-f", ref, f"{ref.partition(':')[0]}:latest", check=False)


def context_of(dockerfile: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("images/small/Dockerfile")
        entry.size = len(dockerfile)
        archive.addfile(entry, io.BytesIO(dockerfile.encode()))
    return buffer.getvalue()


async def test_own_images_are_built_where_absent_and_again_when_asked(
    engine: Engine, own_image: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_from(dockerfile: str) -> None:
        monkeypatch.setattr(assets, "build_context", lambda _: context_of(dockerfile))

    async def ensure(build: bool) -> str:
        return await images.ensure_images(engine, own_image, own_image, build, told)

    unheard = secrets.token_hex(5)  # or the engine has it from another time
    build_from(f"FROM {BASE}\nRUN echo hello {unheard} >&2\n")
    first = await ensure(build=False)
    assert f"hello {unheard}" in told.lines
    assert told.notes == [f"building {own_image}"]
    assert told.parts == [(0, 2, "step 1 of 2"), (1, 2, "step 2 of 2")]
    assert inspect(f"{own_image.partition(':')[0]}:latest")["Id"] == first

    build_from(f"FROM {BASE}\nRUN echo another {unheard}\n")
    assert await ensure(build=False) == first
    assert await ensure(build=True) != first
    docker("rmi", first)


async def test_a_build_that_fails_says_why(
    engine: Engine, own_image: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    dockerfile = f"FROM {BASE}\nRUN true\nRUN echo the mirror is away && exit 7\n"
    monkeypatch.setattr(assets, "build_context", lambda _: context_of(dockerfile))
    with pytest.raises(ImageError) as caught:
        await images.ensure_images(engine, own_image, own_image, False, told)
    text = str(caught.value)
    assert text.startswith(f"building {own_image} failed: ")
    assert "non-zero code: 7" in text
    assert "the mirror is away" in text
    assert "Step 2/3" not in text  # what went well is of no interest


async def test_a_pull_shows_how_far_it_is(engine: Engine, told: Told) -> None:
    name = f"lbctl-{secrets.token_hex(4)}"
    async with registry(name, layers=3, layer_bytes=4_000_000) as ref:
        await images.ensure_image(engine, ref, told, build=False)
        docker("rmi", ref)  # and so it was there
    assert told.notes == [f"pulling {ref}"]
    done = [done for done, total, _ in told.parts if total == 3]
    assert done == sorted(done)
    assert any(0 < one % 1 != 0.5 for one in done)  # within a layer
    assert told.parts[-1] == (3, 3, "layers: 3 of 3")


async def test_a_base_that_cannot_be_had(
    engine: Engine, own_image: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "BASE_IMAGE", ABSENT)
    with pytest.raises(ImageError, match=rf"its base {ABSENT} is not here, and .*refused"):
        await images.ensure_images(engine, own_image, own_image, False, told)
