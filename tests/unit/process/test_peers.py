"""The leader's end of the controllers of other lbs: scripted ones on a real unix socket."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from lbctl.errors import OperationError
from lbctl.model import Process
from lbctl.paths import Paths
from lbctl.process import peers, wire
from tests.support.deadlines import eventually, scaled
from tests.unit.process.scripted import ScriptedPeer, connect, follow, join, open_ends, serving

if TYPE_CHECKING:
    from pathlib import Path

    from lbctl.process.hub import Hub


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path, tmp_path / "secrets")


WHEN = datetime(2026, 11, 27, 5, 0, tzinfo=UTC)
ROWS = wire.process_rows([Process("worker", "b/worker-0", 7, 0, WHEN, "b")])


async def test_the_processes_of_another_lb_are_known_as_long_as_it_is_there(paths: Paths) -> None:
    async with serving(paths) as hub:
        peer = await follow(paths, "b")
        peer.say({"processes": ROWS})
        await eventually(hub.peers.processes)
        [process] = hub.peers.processes()
        assert (process.lb, process.name, process.started_at) == ("b", "b/worker-0", WHEN)
        await open_ends.pop().leave()
        await eventually(lambda: not hub.peers.lbs)
        assert hub.peers.processes() == []


async def told(hub: Hub, paths: Paths, *, serves: bool = True) -> ScriptedPeer:
    """One that has told its processes, pids 6 and 7; its lb has a worker here, if it `serves`."""
    if serves:
        (await join(paths, name="b/worker-0")).report(0)
        await hub.connected(1, scaled(5))
    peer = await follow(paths, "b")
    peer.say({"processes": wire.process_rows([process("controller", 6), process("worker-0", 7)])})
    await eventually(hub.peers.processes)
    return peer


def process(name: str, pid: int) -> Process:
    return Process(name.partition("-")[0], f"b/{name}", pid, 0, WHEN, "b")


def pids(hub: Hub) -> list[int]:
    return [one.pid for one in hub.peers.processes()]


async def test_its_processes_are_known_while_its_controller_is_renewed(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_RENEWAL_S", scaled(5))
    async with serving(paths) as hub:
        peer = await told(hub, paths)
        reloading = asyncio.create_task(hub.peers.reload(scaled(5)))
        assert await peer.heard() == {"reload": {}}
        peer.say({"reloaded": ""})
        await peer.leave()
        await eventually(lambda: not hub.peers.lbs)
        assert pids(hub) == [6, 7]
        back = await follow(paths, "b")
        await reloading
        assert pids(hub) == [6, 7]
        back.say({"processes": wire.process_rows([process("controller", 8)])})
        await eventually(lambda: pids(hub) == [8])


async def test_a_controller_that_does_not_come_is_forgotten(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_RENEWAL_S", 0.05)
    monkeypatch.setattr(peers, "_STARTS_S", 0.05)
    async with serving(paths) as hub:
        peer = await told(hub, paths)
        reloading = asyncio.create_task(hub.peers.reload(scaled(5)))
        await peer.heard()
        peer.say({"reloaded": ""})
        await peer.leave()
        await reloading
        await eventually(lambda: pids(hub) == [7])


async def test_what_serves_without_its_controller_has_not_ended(paths: Paths) -> None:
    async with serving(paths) as hub:
        peer = await told(hub, paths)
        await peer.leave()
        await eventually(lambda: not hub.peers.lbs)
        assert pids(hub) == [7]
        await open_ends.pop().leave()  # the worker ends as well
        await eventually(lambda: not pids(hub))
        (await join(paths, "life-2", "b/worker-0")).report(0)
        await hub.connected(1, scaled(5))
        assert pids(hub) == []  # these are others


async def test_what_does_not_serve_ends_with_its_controller(paths: Paths) -> None:
    async with serving(paths) as hub:
        peer = await told(hub, paths, serves=False)
        await peer.leave()
        await eventually(lambda: not hub.peers.lbs)
        assert pids(hub) == []


async def test_an_lb_that_is_replaced_is_there_twice(paths: Paths) -> None:
    async with serving(paths) as hub:
        for pid in (7, 8):
            rows = wire.process_rows([Process("worker", "b/worker-0", pid, 0, WHEN, "b")])
            (await follow(paths, "b")).say({"processes": rows})
        await eventually(lambda: len(hub.peers.processes()) == 2)
        assert {one.pid for one in hub.peers.processes()} == {7, 8}
        assert hub.peers.lbs == ["b", "b"]


async def renewed(paths: Paths, peer: ScriptedPeer, lb: str) -> None:
    """It is told to reload, does, and another takes its place."""
    assert await peer.heard() == {"reload": {}}
    peer.say({"reloaded": ""})
    await follow(paths, lb)


async def test_other_lbs_reload_one_after_the_other(paths: Paths) -> None:
    async with serving(paths) as hub:
        second, first = await follow(paths, "c"), await follow(paths, "b")
        await eventually(lambda: len(hub.peers.lbs) == 2)
        reloading = asyncio.create_task(hub.peers.reload(scaled(5)))
        assert await first.heard() == {"reload": {}}
        assert not reloading.done()
        first.say({"reloaded": ""})
        await follow(paths, "b")
        await renewed(paths, second, "c")
        await reloading


async def test_no_other_reloads_before_the_last_one_has_a_controller_again(paths: Paths) -> None:
    async with serving(paths) as hub:
        second, first = await follow(paths, "c"), await follow(paths, "b")
        await eventually(lambda: len(hub.peers.lbs) == 2)
        reloading = asyncio.create_task(hub.peers.reload(scaled(5)))
        await first.heard()
        first.say({"reloaded": ""})
        await first.leave()
        await eventually(lambda: len(hub.peers.lbs) == 1)
        hearing = asyncio.create_task(second.heard())
        second.say({"processes": ROWS})  # heard after all that was said before
        await eventually(hub.peers.processes)
        assert not hearing.done()
        await follow(paths, "b")
        assert await hearing == {"reload": {}}
        second.say({"reloaded": ""})
        assert not reloading.done()
        await follow(paths, "c")
        await reloading


async def test_who_is_replaced_is_not_back_because_its_successor_is_there(paths: Paths) -> None:
    async with serving(paths) as hub:
        old, new = await follow(paths, "b"), await follow(paths, "b")
        await eventually(lambda: hub.peers.lbs == ["b", "b"])
        reloading = asyncio.create_task(hub.peers.reload(scaled(5)))
        assert await old.heard() == {"reload": {}}
        hearing = asyncio.create_task(new.heard())
        old.say({"reloaded": ""})
        await old.leave()
        await eventually(lambda: hub.peers.lbs == ["b"])
        assert not hearing.done()
        await follow(paths, "b")
        assert await hearing == {"reload": {}}
        new.say({"reloaded": ""})
        await follow(paths, "b")
        await reloading


async def test_one_that_is_ending_is_passed_over(paths: Paths) -> None:
    async with serving(paths) as hub:
        ending, other = await follow(paths, "b"), await follow(paths, "c")
        await eventually(lambda: len(hub.peers.lbs) == 2)
        reloading = asyncio.create_task(hub.peers.reload(scaled(60)))
        assert await ending.heard() == {"reload": {}}
        ending.say({"reloaded": wire.ENDING})
        await renewed(paths, other, "c")
        async with asyncio.timeout(scaled(5)):
            await reloading


async def test_one_that_does_not_come_back_is_not_waited_for_for_ever(
    paths: Paths, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_STARTS_S", 0.05)
    async with serving(paths) as hub:
        peer = await follow(paths, "b")
        await eventually(lambda: hub.peers.lbs)
        reloading = asyncio.create_task(hub.peers.reload(scaled(5)))
        await peer.heard()
        peer.say({"reloaded": ""})
        await reloading
    assert "the controller of lb b is not back after its reload" in caplog.text


@pytest.mark.parametrize("gone", [False, True])
async def test_an_lb_that_does_not_reload_is_named(paths: Paths, gone: bool) -> None:
    async with serving(paths) as hub:
        peer = await follow(paths, "b")
        await eventually(lambda: hub.peers.lbs)
        reloading = asyncio.create_task(hub.peers.reload(scaled(5)))
        await peer.heard()
        if gone:
            await open_ends.pop().leave()
        else:
            peer.say({"reloaded": "no"})
        why = "its controller is gone" if gone else "no"
        with pytest.raises(OperationError, match=f"lb b has not reloaded: {why}"):
            await reloading


async def test_an_lb_that_missed_a_reload_is_set_right_once(paths: Paths) -> None:
    async with serving(paths) as hub:
        hub.settings_digest = lambda: "new"
        right = ScriptedPeer(await connect(paths))
        right.say({"peer": "c", "settings": "new"})
        for again in (False, True):
            peer = ScriptedPeer(await connect(paths))
            peer.say({"peer": "b", "settings": "old"})
            if not again:
                assert await peer.heard() == {"reload": {}}
                peer.say({"reloaded": ""})
            else:  # its environment says so: it is asked nothing until somebody reloads
                await eventually(lambda: len(hub.peers.lbs) == 2)
                reloading = asyncio.create_task(hub.peers.reload(scaled(5)))
                await renewed(paths, peer, "b")
                await renewed(paths, right, "c")
                await reloading
            if not again:
                await open_ends.pop().leave()
                await eventually(lambda: hub.peers.lbs == ["c"])


@pytest.mark.parametrize(
    ("error", "comes_with"), [("they do not serve", ""), ("", "newest"), ("", "new"), ("", "")]
)
async def test_one_that_is_being_set_right_to_what_is_past_is_told_again(
    paths: Paths, error: str, comes_with: str
) -> None:
    """Itself, where that did not work; else the controller that takes its place, and once, whatever
    it was set to. No answer is taken for another.
    """
    async with serving(paths) as hub:
        hub.settings_digest = lambda: "new"
        peer = ScriptedPeer(await connect(paths))
        peer.say({"peer": "b", "settings": "old"})
        assert await peer.heard() == {"reload": {}}
        hub.settings_digest = lambda: "newest"
        reloading = asyncio.create_task(hub.peers.reload(scaled(5)))
        peer.say({"reloaded": error})
        if not error:
            await peer.leave()
            peer = ScriptedPeer(await connect(paths))
            peer.say({"peer": "b", "settings": comes_with})
        assert await peer.heard() == {"reload": {}}
        assert not reloading.done()
        peer.say({"reloaded": ""})
        await follow(paths, "b")
        await reloading
        await hub.close()
        assert await peer.rest() == b""


async def test_one_whose_environment_says_something_else_is_waited_for_as_well(
    paths: Paths,
) -> None:
    """Whoever is told to reload is away soon: nobody else may be then."""
    async with serving(paths) as hub:
        hub.settings_digest = lambda: "new"
        peer = await follow(paths, "b")
        await eventually(lambda: hub.peers.lbs)
        reloading = asyncio.create_task(hub.peers.reload(scaled(5)))
        for settings in ("its own", "its own"):
            assert await peer.heard() == {"reload": {}}
            peer.say({"reloaded": ""})
            await peer.leave()
            assert not reloading.done()
            peer = ScriptedPeer(await connect(paths))
            peer.say({"peer": "b", "settings": settings})
        await reloading
        await hub.close()
        assert await peer.rest() == b""


async def test_who_cannot_go_back_keeps_nobody_else_from_it(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(paths) as hub:
        first, second = await follow(paths, "b"), await follow(paths, "c")
        await eventually(lambda: len(hub.peers.lbs) == 2)
        going = asyncio.create_task(hub.peers.take_back(scaled(5)))
        assert await first.heard() == {"reload": {}}
        first.say({"reloaded": "they do not serve"})
        await renewed(paths, second, "c")
        await going
    assert "lb b has not reloaded: they do not serve; it may go on with" in caplog.text


async def test_one_that_says_nothing_is_named(paths: Paths) -> None:
    async with serving(paths) as hub:
        peer = await follow(paths, "b")
        await eventually(lambda: hub.peers.lbs)
        for _ in range(2):  # the second time it is not told again: an answer is still to come
            with pytest.raises(OperationError, match=r"lb b has not reloaded: .* within 0\.05 s"):
                await hub.peers.reload(0.05)
        assert await peer.heard() == {"reload": {}}
        await hub.close()
        assert await peer.rest() == b""


async def test_one_that_could_not_be_set_right_is_told_when_it_comes_again(paths: Paths) -> None:
    async with serving(paths) as hub:
        hub.settings_digest = lambda: "new"
        for answer in ("a reload is under way", None, ""):
            peer = ScriptedPeer(await connect(paths))
            peer.say({"peer": "b", "settings": "old"})
            assert await peer.heard() == {"reload": {}}
            if answer is not None:
                peer.say({"reloaded": answer})
            await peer.leave()


async def test_an_lb_that_serves_and_has_no_controller_yet_is_waited_for(paths: Paths) -> None:
    async with serving(paths) as hub:
        hub.settings_digest = lambda: "new"
        (await join(paths, name="b/worker-0")).report(0)
        await hub.connected(1, scaled(5))
        reloading = asyncio.create_task(hub.peers.reload(scaled(5)))
        peer = ScriptedPeer(await connect(paths))
        peer.say({"peer": "b", "settings": "old"})
        assert await peer.heard() == {"reload": {}}
        assert not reloading.done()
        peer.say({"reloaded": ""})
        await follow(paths, "b")
        await reloading
        await hub.close()
        assert await peer.rest() == b""


async def test_an_lb_that_has_no_controller_for_long_is_not_waited_for(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(paths) as hub:
        for lb in "ab":
            (await join(paths, f"life-{lb}", f"{lb}/worker-0")).report(0)
        await hub.connected(2, scaled(5))
        await hub.peers.reload(0.1)
    assert "lb b has no controller that could be told to reload" in caplog.text
    assert "lb a" not in caplog.text  # it is the one that leads


async def test_one_that_left_while_others_reload_is_not_waited_for(paths: Paths) -> None:
    async with serving(paths) as hub:
        first, _ = await follow(paths, "b"), await follow(paths, "c")
        await eventually(lambda: len(hub.peers.lbs) == 2)
        reloading = asyncio.create_task(hub.peers.reload(scaled(60)))
        await first.heard()
        await open_ends.pop().leave()
        await eventually(lambda: len(hub.peers.lbs) == 1)
        first.say({"reloaded": ""})
        await follow(paths, "b")
        async with asyncio.timeout(scaled(5)):
            await reloading
