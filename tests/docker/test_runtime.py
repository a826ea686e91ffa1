"""The docker runtime on a real engine."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from lbctl.errors import EngineError, ImageError
from lbctl.model import LABEL_REVISION, EngineHealth, Instance, Phase, Release
from lbctl.runtime.docker import DockerRuntime
from tests.docker.conftest import BASE, docker, docker_aside, inspect
from tests.support.deadlines import scaled, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from lbctl.ports import Change
    from lbctl.runtime.engine import Engine
    from tests.docker.conftest import Project

pytestmark = pytest.mark.docker


class Watcher:
    """Follows a runtime's hints and keeps them in order."""

    def __init__(self, runtime: DockerRuntime) -> None:
        self.changes: list[Change] = []
        self._runtime = runtime
        self._moved = asyncio.Condition()
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for change in self._runtime.watch():
            async with self._moved:
                self.changes.append(change)
                self._moved.notify_all()

    async def until(self, wanted: Callable[[Change], bool], after: int = 0) -> int:
        """Position of the first wanted change from position `after` on."""

        def position() -> int:
            found = (i for i, c in enumerate(self.changes) if i >= after and wanted(c))
            return next(found, -1)

        try:
            async with asyncio.timeout(scaled(10)), self._moved:
                await self._moved.wait_for(lambda: position() >= 0 or self._task.done())
        except TimeoutError:
            raise AssertionError(f"not seen; only {self.changes}") from None
        if self._task.done():
            await self._task
        return position()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def of(container: str, action: str) -> Callable[[Change], bool]:
    return lambda change: change.id == container and change.action == action


@pytest.fixture
def release(sleeper: str) -> Release:
    return Release(image=sleeper)


@pytest.fixture
def runtime(engine: Engine, project: Project) -> DockerRuntime:
    project.make_surroundings()
    return DockerRuntime(engine, project.name)


@pytest_asyncio.fixture
async def watcher(runtime: DockerRuntime) -> AsyncIterator[Watcher]:
    watcher = Watcher(runtime)
    await watcher.until(lambda change: change.action == "subscribed")
    yield watcher
    await watcher.stop()


async def only(runtime: DockerRuntime) -> Instance:
    (instance,) = await runtime.list()
    return instance


async def test_start_list_and_stop(
    runtime: DockerRuntime, release: Release, project: Project
) -> None:
    ids = await runtime.start(3, release)

    instances = {instance.id: instance for instance in await runtime.list()}
    assert set(ids) == set(instances)
    assert {i.name for i in instances.values()} == {
        f"{project.name}-backend-{n}" for n in (1, 2, 3)
    }
    assert all(i.phase is Phase.RUNNING and not i.problem for i in instances.values())
    for identity, instance in instances.items():
        networks = inspect(identity)["NetworkSettings"]["Networks"]
        assert instance.backend is not None
        assert instance.backend.ip == networks[project.name]["IPAddress"]

    await asyncio.gather(*(runtime.stop(identity, 5) for identity in ids))
    assert await runtime.list() == []
    assert project.objects()["containers"] == []
    await runtime.stop(ids[0], 5)  # gone already is no error


async def test_how_a_backend_is_confined(
    runtime: DockerRuntime, release: Release, project: Project
) -> None:
    (identity,) = await runtime.start(1, release)
    facts = inspect(identity)
    host = facts["HostConfig"]
    assert host["NetworkMode"] == project.names.network
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["Memory"] == 64 << 20
    assert host["PidsLimit"] == 64
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert host["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "10m", "max-file": "3"},
    }
    assert not host["PortBindings"]
    (mount,) = facts["Mounts"]
    assert (mount["Name"], mount["Destination"], mount["RW"]) == (
        project.names.token_volume,
        "/run/lbctl",
        False,
    )
    assert facts["Config"]["Labels"] == project.names.labels("backend") | {LABEL_REVISION: "1"}
    assert [e.partition("=")[0] for e in facts["Config"]["Env"]] == ["PATH"]


async def test_start_takes_the_lowest_free_numbers(
    runtime: DockerRuntime, release: Release, project: Project
) -> None:
    ids = await runtime.start(3, release)
    await runtime.stop(next(i.id for i in await runtime.list() if i.name.endswith("-1")), 5)
    # A name is taken by whatever has it, label or not.
    docker("create", "--name", f"{project.name}-backend-4", "--label",
           f"lbctl.project={project.name}", BASE)  # fmt: skip
    await runtime.start(2, release)
    numbers = {i.name.rpartition("-")[2] for i in await runtime.list()}
    assert numbers == {"1", "2", "3", "5"}
    assert len(ids) == 3


async def test_a_start_that_fails_leaves_nothing(
    runtime: DockerRuntime, release: Release, project: Project
) -> None:
    (kept,) = await runtime.start(1, release)
    with pytest.raises(ImageError, match=r"(?i)no such image"):
        await runtime.start(3, Release(image="lbctl-absent:1"))
    # An engine creates this one, and only finds out at the start that it cannot run.
    broken = f"{project.name}-broken:1"
    docker("build", "-t", broken, "-", stdin=f'FROM {BASE}\nCMD ["/not-there"]\n')
    try:
        with pytest.raises(EngineError, match="not-there"):
            await runtime.start(10, Release(image=broken))
    finally:
        docker("rmi", broken)
    assert [i.id for i in await runtime.list()] == [kept]
    assert project.objects()["containers"] == [f"{project.name}-backend-1"]


async def test_a_start_that_is_cancelled_leaves_nothing(
    runtime: DockerRuntime, release: Release, watcher: Watcher, project: Project
) -> None:
    starting = asyncio.create_task(runtime.start(4, release))
    await watcher.until(lambda change: change.action == "connect")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert project.objects()["containers"] == []


async def test_stop_kills_what_does_not_end(runtime: DockerRuntime, project: Project) -> None:
    stubborn = docker(
        "run", "-d", "--name", f"{project.name}-stubborn", "--network", project.name,
        "--label", "lbctl.role=backend", "--label", f"lbctl.project={project.name}",
        BASE, "sleep", "600",
    )  # fmt: skip
    begin = time.monotonic()
    await runtime.stop(stubborn, 1)
    assert 1 <= time.monotonic() - begin < scaled(5)
    assert await runtime.list() == []


async def test_stop_ends_a_paused_one(runtime: DockerRuntime, release: Release) -> None:
    (identity,) = await runtime.start(1, release)
    docker("pause", identity)
    await runtime.stop(identity, 1)
    assert await runtime.list() == []


async def test_the_list_tells_every_phase(runtime: DockerRuntime, project: Project) -> None:
    identity = project.run("one")
    assert (await only(runtime)).phase is Phase.RUNNING
    docker("pause", identity)
    paused = await only(runtime)
    assert paused.phase is Phase.PAUSED
    assert paused.backend is not None
    docker("unpause", identity)
    docker("network", "disconnect", project.name, identity)
    off = await only(runtime)
    assert off.phase is Phase.RUNNING
    assert (off.backend, off.problem) == (None, f"has no address on network {project.name}")
    docker("network", "connect", project.name, identity)
    assert (await only(runtime)).backend is not None
    docker("kill", identity)
    dead = await only(runtime)
    assert (dead.phase, dead.backend) == (Phase.EXITED, None)
    assert dead.problem == "exited, exit status 137"


async def test_the_list_tells_docker_s_health(
    runtime: DockerRuntime, watcher: Watcher, project: Project
) -> None:
    check = ("--health-interval", "200ms", "--health-retries", "1", "--health-cmd")
    identity = project.run("ill", *check, "test ! -e /ill")
    healthy = await watcher.until(of(identity, "health_status"))
    assert (await only(runtime)).health is EngineHealth.HEALTHY
    await docker_aside("exec", identity, "touch", "/ill")
    await watcher.until(of(identity, "health_status"), after=healthy + 1)
    assert (await only(runtime)).health is EngineHealth.UNHEALTHY


async def test_a_pause_makes_nobody_unhealthy(runtime: DockerRuntime, project: Project) -> None:
    project.run("one", "--health-interval", "1h", "--health-cmd", "true")
    docker("pause", f"{project.name}-one")
    docker("unpause", f"{project.name}-one")
    assert inspect(f"{project.name}-one")["State"]["Health"]["Status"] == "unhealthy"
    assert (await only(runtime)).health is EngineHealth.NONE


async def test_labels_set_the_backend(runtime: DockerRuntime, project: Project) -> None:
    project.run("labelled", labels={
        "lbctl.port": "81", "lbctl.admin-port": "82", "lbctl.probe": "/up?deep=1",
        "lbctl.weight": "7", "lbctl.publish": "false",
    })  # fmt: skip
    backend = (await only(runtime)).backend
    assert backend is not None
    assert (backend.port, backend.admin_port) == (81, 82)
    assert (backend.probe_path, backend.weight, backend.publish) == ("/up?deep=1", 7, False)


async def test_labels_that_lie_keep_out_with_a_reason(
    runtime: DockerRuntime, project: Project
) -> None:
    project.run("liar", labels={"lbctl.port": "0\x1b[31m<b>"})
    instance = await only(runtime)
    assert instance.backend is None
    assert instance.problem == (
        'label lbctl.port="0?[31m<b>" is not a whole number from 1 to 65535'
    )


async def test_another_project_s_are_not_listed(runtime: DockerRuntime, project: Project) -> None:
    project.run("stranger", labels={"lbctl.project": f"{project.name}x"})
    try:
        assert await runtime.list() == []
    finally:
        docker("rm", "-f", f"{project.name}-stranger")


async def test_stop_is_known_before_the_end(
    runtime: DockerRuntime, release: Release, watcher: Watcher, project: Project
) -> None:
    (identity,) = await runtime.start(1, release)
    await watcher.until(of(identity, "start"))
    # It is deaf for half a second after its stop signal, as an nginx that finishes requests is.
    slow = docker(
        "run", "-d", "--name", f"{project.name}-slow", "--network", project.name,
        "--label", "lbctl.role=backend", "--label", f"lbctl.project={project.name}",
        "--stop-signal", "QUIT", BASE, "sh", "-c",
        "trap 'sleep 0.5; exit 0' QUIT; sleep 600 & wait",
    )  # fmt: skip
    stopping = asyncio.create_task(docker_aside("stop", slow))
    kill = await watcher.until(of(slow, "kill"))
    assert watcher.changes[kill].leaving
    assert not any(map(of(slow, "die"), watcher.changes))
    assert (await runtime.list())[0].phase is Phase.RUNNING
    assert await watcher.until(of(slow, "die")) > kill
    await stopping


@pytest.mark.parametrize("signal", ["TERM", "QUIT", "INT", "KILL"])
async def test_a_terminating_signal_means_leaving(
    runtime: DockerRuntime, watcher: Watcher, project: Project, signal: str
) -> None:
    identity = project.run("one")
    await docker_aside("kill", "--signal", signal, identity)
    assert watcher.changes[await watcher.until(of(identity, "kill"))].leaving


@pytest.mark.parametrize("signal", ["HUP", "USR2", "WINCH"])
async def test_another_signal_does_not(
    runtime: DockerRuntime, watcher: Watcher, project: Project, signal: str
) -> None:
    identity = project.run("one")
    await docker_aside("kill", "--signal", signal, identity)
    assert not watcher.changes[await watcher.until(of(identity, "kill"))].leaving


async def test_a_container_s_own_stop_signal_means_leaving(
    runtime: DockerRuntime, watcher: Watcher, project: Project
) -> None:
    identity = project.run("one", "--stop-signal", "SIGUSR1")
    await docker_aside("kill", "--signal", "USR1", identity)
    assert watcher.changes[await watcher.until(of(identity, "kill"))].leaving


async def test_pause_network_and_health_are_hints(
    runtime: DockerRuntime, watcher: Watcher, project: Project
) -> None:
    identity = project.run("one", "--health-interval", "200ms", "--health-cmd", "true")
    for action, command in (
        ("start", ()),
        ("health_status", ()),
        ("pause", ("pause", identity)),
        ("unpause", ("unpause", identity)),
        ("disconnect", ("network", "disconnect", project.name, identity)),
        ("connect", ("network", "connect", project.name, identity)),
        ("die", ("stop", identity)),
        ("destroy", ("rm", identity)),
    ):
        seen = len(watcher.changes) if command else 0
        if command:
            await docker_aside(*command)
        await watcher.until(of(identity, action), after=seen)


async def test_noise_is_no_hint(
    runtime: DockerRuntime, watcher: Watcher, project: Project, other_project: Project
) -> None:
    other_project.make_surroundings()
    identity = project.run("one", "--health-interval", "100ms", "--health-cmd", "true")
    await watcher.until(of(identity, "health_status"))
    for _ in range(3):
        await docker_aside("exec", identity, "true")
    other = other_project.run("one")  # on a network of its own
    bystander = docker(
        "run", "-d", "--label", f"lbctl.project={other_project.name}", BASE, "sleep", "600"
    )
    docker("kill", other, bystander)
    await docker_aside("kill", identity)
    await watcher.until(of(identity, "die"))
    assert {change.id for change in watcher.changes} == {"", identity}
    assert not [c for c in watcher.changes if c.action.startswith(("exec", "top", "attach"))]


async def test_nothing_is_missed_from_subscribed_on(
    runtime: DockerRuntime, project: Project
) -> None:
    identity = project.run("one")
    for _ in range(10):
        watcher = Watcher(runtime)
        await watcher.until(lambda change: change.action == "subscribed")
        await docker_aside("pause", identity)
        await watcher.until(of(identity, "pause"))
        await docker_aside("unpause", identity)
        await watcher.stop()


async def test_watch_tells_nothing_old(runtime: DockerRuntime, project: Project) -> None:
    identity = project.run("one")
    until(lambda: "up" in docker("logs", identity))  # it has its trap
    docker("kill", "--signal", "TERM", identity)
    docker("wait", identity)
    watcher = Watcher(runtime)
    await watcher.until(lambda change: change.action == "subscribed")
    docker("start", identity)
    await watcher.until(of(identity, "start"))
    assert not [change for change in watcher.changes if change.leaving]
    await watcher.stop()
