"""Hands on real processes of this machine, and on an engine that tells what it was asked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lbctl.errors import EngineError, EngineUnavailableError, OperationError
from lbctl.paths import Paths
from lbctl.verify import hands as hands_module
from lbctl.verify.hands import DockerHands, LocalHands
from lbctl.verify.view import Process, Seat
from tests.support.deadlines import eventually, scaled, until
from tests.unit.runtime.fake_engine import FakeEngine, engine, fake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.runtime.engine import Engine

__all__ = ["engine", "fake"]  # fixtures

WEB = Seat("abc", "web-1", "127.0.0.1", 8080, "up", "", 1)

# A process and its child, as nginx's master and worker: pids on standard output.
FAMILY = (
    "import os, sys, time\nchild = os.fork()\nif child: print(child, flush=True)\ntime.sleep(600)"
)


def state_of(pid: int) -> str:
    """R, S, T (stopped), Z (dead): proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[LocalHands, int, int]]:
    """Hands, and the pids of a backend's master and worker."""
    paths = Paths(tmp_path, tmp_path / "secrets")
    directory = paths.backends / "web-1"
    directory.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as master:
        assert master.stdout is not None
        worker = int(master.stdout.readline())
        (directory / "nginx.pid").write_text(f"{master.pid}\n", encoding="ascii")
        try:
            yield LocalHands(paths), master.pid, worker
        finally:
            os.killpg(master.pid, signal.SIGKILL)
            master.wait(scaled(5))


async def test_a_paused_backend_stands_still_with_its_workers(
    family: tuple[LocalHands, int, int],
) -> None:
    hands, master, worker = family
    await hands.pause_backend(WEB)
    until(lambda: state_of(master) == state_of(worker) == "T")
    await hands.resume_backend(WEB)
    until(lambda: "T" not in (state_of(master), state_of(worker)))


async def test_a_killed_backend_is_dead(family: tuple[LocalHands, int, int]) -> None:
    hands, master, _ = family
    await hands.kill_backend(WEB)
    until(lambda: state_of(master) == "Z")


async def test_a_killed_process_is_dead(family: tuple[LocalHands, int, int]) -> None:
    hands, master, worker = family
    await hands.kill_process(Process("worker", "worker-0", worker, ""))
    until(lambda: not Path(f"/proc/{worker}").exists() or state_of(worker) == "Z")
    assert state_of(master) != "Z"


async def test_what_is_gone_cannot_be_killed_and_need_not_be_resumed(tmp_path: Path) -> None:
    hands = LocalHands(Paths(tmp_path, tmp_path))
    with pytest.raises(OperationError, match="has no process"):
        await hands.kill_backend(WEB)
    await hands.resume_backend(WEB)
    with pytest.raises(OperationError, match="No such process"):
        await hands.kill_process(Process("worker", "worker-0", 2**22 + 1, ""))


async def test_what_the_local_runtime_does_not_have(tmp_path: Path) -> None:
    hands = LocalHands(Paths(tmp_path, tmp_path))
    assert "child of the lb" in hands.cannot_stop()
    assert not await hands.has_guard()
    assert hands.cannot_upgrade()
    for impossible in (
        hands.stop_backend(WEB), hands.kill_lb("a"), hands.kill_guard(), hands.upgrade(),
        hands.restart_engine(),
    ):  # fmt: skip
        with pytest.raises(OperationError):
            await impossible


@pytest.mark.parametrize(
    ("command", "info", "said"),
    [
        ([], {}, "names no command"),
        (["true"], {"LiveRestoreEnabled": False}, "without live-restore"),
        (["true"], {}, "without live-restore"),
        (["true"], {"LiveRestoreEnabled": True}, ""),
    ],
)
async def test_when_an_engine_is_restarted(
    fake: FakeEngine, engine: Engine, command: list[str], info: dict[str, bool], said: str
) -> None:
    fake.on("GET", "/info", info)
    hands = DockerHands(engine, "shop", None, command)
    answer = await hands.cannot_restart_engine()
    assert said in answer
    assert bool(said) is bool(answer)


async def test_an_engine_is_waited_for(
    fake: FakeEngine, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands_module, "_ASK_INTERVAL_S", 0.01)
    fake.on("GET", "/version", {"message": "not yet"}, status=503)
    ran = tmp_path / "ran"
    hands = DockerHands(engine, "shop", None, ["touch", str(ran)])
    restarting = asyncio.create_task(hands.restart_engine())
    await eventually(lambda: ran.exists() and len(fake.asked) > 3)
    assert not restarting.done()
    fake.on("GET", "/version", {"Version": "1", "ApiVersion": "1.41"})
    await restarting


async def test_nor_is_one_that_has_no_socket_yet(
    fake: FakeEngine, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands_module, "_ASK_INTERVAL_S", 0.01)
    asked = 0
    about = engine.about

    async def not_at_first() -> object:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise EngineUnavailableError("no Docker engine answers")
        return await about()

    monkeypatch.setattr(engine, "about", not_at_first)
    fake.on("GET", "/version", {"Version": "1", "ApiVersion": "1.41"})
    await DockerHands(engine, "shop", None, ["true"]).restart_engine()
    assert asked == 3


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["sh", "-c", "echo before; echo 'no such unit' >&2; exit 5"], "status 5: no such unit"),
        (["no-such-command-here"], "no-such-command-here: No such file"),
        (["sleep", "60"], "sleep 60: not done after 0.1 s"),
    ],
)
async def test_a_restart_that_fails_says_why(
    engine: Engine, command: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands_module, "_RESTART_WITHIN_S", 0.1 if "60" in command else 30)
    with pytest.raises(OperationError, match=says):
        await DockerHands(engine, "shop", None, command).restart_engine()


async def test_an_engine_that_does_not_come_back_is_told(
    fake: FakeEngine, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands_module, "_RESTART_WITHIN_S", 0.2)
    fake.on("GET", "/version", {"message": "never"}, status=503)
    with pytest.raises(EngineError, match="never"):
        await DockerHands(engine, "shop", None, ["true"]).restart_engine()


def lb(name: str) -> dict[str, object]:
    return {
        "Id": f"id-of-{name}",
        "Names": [f"/{name}"],
        "Labels": {"lbctl.lb": name.removeprefix("shop-lb-")},
    }


async def test_the_engine_is_asked_in_its_own_words(fake: FakeEngine, engine: Engine) -> None:
    for what in ("kill", "pause", "unpause", "start", "stop"):
        fake.on("POST", f"/containers/abc/{what}", b"", status=204)
    hands = DockerHands(engine, "shop", None)
    await hands.kill_backend(WEB)
    await hands.pause_backend(WEB)
    await hands.resume_backend(WEB)
    await hands.stop_backend(WEB)
    await hands.revive_backend(WEB)
    asked = [request.path.rpartition("/")[2] for request in fake.asked[1:]]
    assert asked == ["kill", "pause", "unpause", "stop", "start"]


@pytest.mark.parametrize("status", [404, 409])
async def test_what_is_gone_is_left_alone(fake: FakeEngine, engine: Engine, status: int) -> None:
    for what in ("unpause", "start"):
        fake.on("POST", f"/containers/abc/{what}", {"message": "no"}, status=status)
    hands = DockerHands(engine, "shop", None)
    await hands.resume_backend(WEB)
    await hands.revive_backend(WEB)
    fake.on("POST", "/containers/abc/start", {"message": "no room"}, status=500)
    with pytest.raises(EngineError, match="no room"):
        await hands.revive_backend(WEB)


@pytest.mark.parametrize(
    ("lbs", "name", "killed"),
    [
        (["shop-lb-a"], "a", "shop-lb-a"),
        (["shop-lb-a", "shop-lb-b"], "b", "shop-lb-b"),
    ],
)
async def test_a_process_is_killed_in_the_container_of_its_lb(
    fake: FakeEngine, engine: Engine, lbs: list[str], name: str, killed: str
) -> None:
    fake.on("GET", "/containers/json", [lb(one) for one in lbs])
    fake.on("POST", f"/containers/id-of-{killed}/exec", {"Id": "e1"}, status=201)
    fake.stream("POST", "/exec/e1/start")
    fake.on("GET", "/exec/e1/json", {"ExitCode": 0})
    await DockerHands(engine, "shop", None).kill_process(
        Process("worker", f"{name}/worker-0", 9, name)
    )
    assert [request.path.partition("/v1.41")[2] for request in fake.asked[2:]] == [
        f"/containers/id-of-{killed}/exec", "/exec/e1/start", "/exec/e1/json",
    ]  # fmt: skip


async def test_a_kill_that_fails_is_told(fake: FakeEngine, engine: Engine) -> None:
    fake.on("GET", "/containers/json", [lb("shop-lb-a")])
    fake.on("POST", "/containers/id-of-shop-lb-a/exec", {"Id": "e1"}, status=201)
    fake.stream("POST", "/exec/e1/start")
    fake.on("GET", "/exec/e1/json", {"ExitCode": 1})
    hands = DockerHands(engine, "shop", None)
    with pytest.raises(OperationError, match="worker 9 could not be killed"):
        await hands.kill_process(Process("worker", "a/worker-0", 9, "a"))
    with pytest.raises(OperationError, match="no container of this project is lb 'b'"):
        await hands.kill_lb("b")


@pytest.mark.parametrize("there", [True, False])
async def test_a_guard_may_be_there(fake: FakeEngine, engine: Engine, *, there: bool) -> None:
    fake.on("GET", "/containers/json", [lb("shop-guard")] if there else [])
    fake.on("POST", "/containers/id-of-shop-guard/kill", b"", status=204)
    fake.on("POST", "/containers/id-of-shop-guard/start", b"", status=204)
    hands = DockerHands(engine, "shop", None)
    assert await hands.has_guard() is there
    await hands.kill_guard()
    await hands.revive_guard()
    assert "lbctl.role=guard" in fake.asked[1].query["filters"]
    assert sum(request.method == "POST" for request in fake.asked) == (2 if there else 0)


async def test_only_lbs_that_lbctl_has_made_are_upgraded(engine: Engine) -> None:
    done = []

    async def upgrade() -> None:
        done.append("upgrade")

    hands = DockerHands(engine, "shop", upgrade)
    assert hands.cannot_upgrade() == ""
    await hands.upgrade()
    assert done == ["upgrade"]
    strangers = DockerHands(engine, "shop", None)
    assert "not made" in strangers.cannot_upgrade()
    with pytest.raises(OperationError, match="not made"):
        await strangers.upgrade()
