"""A whole run on a stack of sockets: it holds where nothing breaks, and each promise can break."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.errors import OperationError
from lbctl.verify import disturbances, stage
from lbctl.verify import run as run_module
from lbctl.verify.answers import AnswerError, Kind
from lbctl.verify.run import Options, verify
from tests.support.deadlines import eventually
from tests.unit.verify.stack import Notes, Stack, run, started, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.verify.promises import Row, Verdict
    from lbctl.verify.view import Seat

ALL = [
    "calm", "scale-up", "scale-down", "scale-back", "drain", "rollout", "reload", "checks",
    "upgrade", "kill-backend", "stop-backend", "pause-backend",
    "kill-worker", "kill-controller", "kill-lb", "kill-guard", "restart-engine",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_time_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_COUNTED_S", 0.05)
    monkeypatch.setattr(disturbances, "PAUSE_S", 0.05)
    monkeypatch.setattr(disturbances, "_LOOK_INTERVAL_S", 0.01)
    monkeypatch.setattr(stage, "_BACK_WITHIN_S", 0.3)


def row_of(verdict: Verdict, key: str) -> Row:
    return next(row for row in verdict.rows if row.key == key)


def ran(verdict: Verdict) -> list[str]:
    return [row.key for row in verdict.rows if row.seen]


async def broken_by(stack: Stack) -> dict[str, str]:
    """What a run finds broken, by the row."""
    async with started(stack):
        verdict = await run(stack)
    assert not verdict.held
    return {row.key: " / ".join(row.broken) for row in verdict.rows if row.broken}


async def test_a_stack_without_fault_holds_and_is_left_as_it_was() -> None:
    stack, notes = Stack(lbs=("a", "b"), guard=True, unrestartable=""), Notes()
    async with started(stack):
        processes = len(stack.processes)
        verdict = await run(stack, notes)
    assert verdict.broken == ()
    assert verdict.failed == 0
    assert [row.key for row in verdict.rows] == ran(verdict) == ALL
    assert list(verdict.rows) == notes.rows
    assert all(row.seen and row.seen.window.requests for row in verdict.rows)
    assert (len(stack.backends), stack.replicas, len(stack.processes)) == (3, 3, processes)
    assert {one.state for one in stack.backends} == {"up"}
    assert stack.done == [
        "scale 10", "scale 2", "scale 3", "drain", "undrain", "rollout", "reload",
        "reload 299 0.3", "reload 200-299 2.0", "upgrade",
        "kill-backend", "revive-backend", "stop-backend", "revive-backend",
        "pause-backend", "resume-backend", "kill-worker", "kill-controller",
        "kill-lb a", "revive-lb a", "kill-guard", "revive-guard",
        "restart-engine",
    ]  # fmt: skip
    assert verdict.retried == len(stack.done)
    assert notes.warnings == []


async def test_what_a_stack_lacks_is_left_out_with_the_reason() -> None:
    stack = Stack(lacks={"drain", "rollout", "reload"}, stoppable=False, upgradable=False)
    async with started(stack):
        verdict = await run(stack)
    assert verdict.held
    skipped = {row.key: row.skipped for row in verdict.rows if row.skipped}
    assert skipped == {
        "drain": "this lb lacks it (POST drain: Not Found)",
        "rollout": "this lb lacks it (POST rollout: Not Found)",
        "reload": "this lb lacks it (POST reload: Not Found)",
        "checks": "this lb lacks it (POST reload: Not Found)",
        "upgrade": "nobody can",
        "stop-backend": "nobody can",
        "kill-lb": "there is one lb: killed, it takes the address along",
        "kill-guard": "there is no guard",
        "restart-engine": "there is no engine",
    }


def answering(answer: Callable[[bytes], bytes | None]) -> Callable[[Stack], None]:
    """From this disturbance on, the lb answers so."""

    def break_it(stack: Stack) -> None:
        stack.publish()
        stack.answer = answer

    return break_it


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda _: whole(b"", b"500 Oh No", "127.0.0.7"), "status 500 from 127.0.0.7"),
        (lambda _: whole(b"", b"503 Service Unavailable"), "status 503"),
        (lambda _: whole(b"no list\n"), "wrong content"),
        (lambda body: whole(body) + b"more", "malformed answer"),
    ],
)
@pytest.mark.parametrize("key", ["scale 10", "kill-backend"])
async def test_failed_requests_break_the_promise(
    key: str, answer: Callable[[bytes], bytes | None], says: str
) -> None:
    stack = Stack()
    stack.during[key] = lambda: answering(answer)(stack)
    broken = await broken_by(stack)
    assert says in broken["scale-up" if key == "scale 10" else key]


async def test_a_hanging_answer_breaks_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbctl.verify.load.ANSWER_TIMEOUT_S", 0.02)
    stack = Stack()
    stack.during["kill-backend"] = lambda: answering(lambda _: None)(stack)
    assert "no answer in time" in (await broken_by(stack))["kill-backend"]


def dying(stack: Stack, connections: int) -> Callable[[], None]:
    """So many connections break off at a moment at which every one of them waits for an answer."""

    def die() -> None:
        stack.publish()
        stack.hang()
        bury()

    def bury() -> None:
        if stack.waiting < connections:
            asyncio.get_running_loop().call_later(0.001, bury)
            return
        stack.break_off(connections)
        stack.go_on()

    return die


async def test_requests_that_break_off_break_the_promise() -> None:
    stack = Stack()
    stack.during["kill-backend"] = dying(stack, 1)
    broken = await broken_by(stack)
    assert broken == {"kill-backend": "1 request failed, none may: 1 x closed without an answer"}


async def test_a_killed_worker_may_take_what_was_in_flight_on_it() -> None:
    stack = Stack()
    stack.during["kill-worker"] = dying(stack, 2)  # of 4 connections, on 2 workers
    async with started(stack):
        verdict = await run(stack)
    assert verdict.held
    assert verdict.failed == 2


async def test_a_killed_worker_may_not_take_more_than_its_share() -> None:
    stack = Stack()
    stack.during["kill-worker"] = dying(stack, 3)
    assert "3 requests failed, 2 may" in (await broken_by(stack))["kill-worker"]


async def test_a_refused_connection_is_never_in_flight() -> None:
    stack = Stack()
    stack.during["kill-worker"] = stack.refuse
    assert "connection refused" in (await broken_by(stack))["kill-worker"]


async def test_a_stale_list_behind_the_lb_is_noticed() -> None:
    """Every backend says it is right, and the lb serves what was."""
    stack = Stack()

    def keep() -> None:
        stack.publish()
        old = stack.expected
        stack.answer = lambda _: whole(old)

    stack.during["scale 10"] = keep
    broken = await broken_by(stack)
    assert "another list than that of the backends in rotation" in broken["scale-down"]


async def test_lists_that_stay_wrong_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_LISTS_PATIENCE_S", 0.1)
    stack = Stack()
    stack.during["kill-backend"] = lambda: None  # nobody is told
    broken = await broken_by(stack)
    assert "the lists did not become right: after 0.1 s, web-" in broken["kill-backend"]
    assert "which are not the 2 in rotation" in broken["kill-backend"]


async def test_a_change_that_status_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_LISTS_PATIENCE_S", 0.1)
    stack = Stack()

    async def ignored(backend: Seat) -> None:
        """It runs on."""

    stack.kill_backend = ignored  # type: ignore[method-assign]
    assert "status does not show the change" in (await broken_by(stack))["kill-backend"]


async def test_a_backend_that_does_not_come_back_ends_the_run() -> None:
    stack, notes = Stack(dead_forever=True), Notes()
    async with started(stack):
        verdict = await run(stack, notes)
        assert len([one for one in stack.backends if one.up]) == 3  # another in its place
    row = row_of(verdict, "kill-backend")
    assert "2 of 3 backends are in rotation" in row.broken[0]
    later = [one.skipped for one in verdict.rows[verdict.rows.index(row) + 1 :]]
    assert later.count("not tried: the stack was no longer whole") == 4


async def test_a_reload_that_keeps_a_worker_is_none() -> None:
    broken = await broken_by(Stack(keeps={"worker"}))
    assert "2 of 2 workers are the ones of before" in broken["reload"]


async def test_an_upgrade_that_keeps_an_lb_is_none() -> None:
    broken = await broken_by(Stack(keeps={"supervisor"}))
    assert "1 of 1 supervisors are the ones of before" in broken["upgrade"]


async def test_checks_that_fail_are_no_reason_to_fail_requests() -> None:
    stack = Stack()
    stack.during["reload 299 0.3"] = lambda: answering(lambda _: whole(b"", b"503 No"))(stack)
    broken = await broken_by(stack)
    assert "status 503" in broken["checks"]


async def test_checks_that_do_not_fail_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbances, "_CHECKS_WITHIN_S", 0.1)
    stack = Stack(deaf=True)
    broken = await broken_by(stack)
    assert "0.1 s after the checks changed: web-" in broken["checks"]
    assert stack.settings["probe_status"] == "200-299"


async def test_a_rollout_that_is_rolled_back_is_told() -> None:
    broken = await broken_by(Stack(rollout_state="rolled back"))
    assert broken["rollout"] == "it failed: the rollout is rolled back: m"


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda s: setattr(s.backends[0], "state", "down"), "1 of 3 backends are out of rotation"),
        (lambda s: setattr(s, "replicas", 4), "3 of 4 wanted backends"),
        (lambda s: s.__dict__.update(replicas=1, backends=s.backends[:1]), "fewer than 2"),
        (lambda s: setattr(s, "rollout_state", "running"), "a rollout is under way"),
        (lambda s: setattr(s, "processes", []), "no worker runs"),
        (lambda s: setattr(s.backends[0], "served", b"127.0.0.1\n"), "a list is wrong"),
        (
            lambda s: setattr(s, "answer", lambda _: whole(b"", b"500 No", s.backends[0].ip)),
            r"GET / fails .* status 500 from web-id\d+",
        ),
        (lambda s: setattr(s, "answer", lambda _: whole(b"127.9.9.9\n")), "GET / fails"),
    ],
)
async def test_a_stack_in_trouble_is_left_alone(
    break_it: Callable[[Stack], Any], says: str
) -> None:
    stack = Stack()
    async with started(stack):
        break_it(stack)
        with pytest.raises(OperationError, match=says):
            await run(stack)
    assert stack.done == []


@pytest.mark.parametrize(
    ("key", "undone"),
    [
        ("scale 10", "scale 3"),
        ("reload 299 0.3", "reload 200-299 2.0"),
        ("drain", "undrain"),
        ("kill-backend", "revive-backend"),
        ("pause-backend", "resume-backend"),
    ],
)
async def test_cut_short_it_puts_the_stack_back(key: str, undone: str) -> None:
    stack = Stack()
    async with started(stack):
        options = Options("127.0.0.1", stack.port, seconds=0, connections=2, rate=100)
        task = asyncio.create_task(verify(options, stack, stack, Notes()))

        def interrupt() -> None:
            stack.publish()
            task.cancel()

        stack.during[key] = interrupt
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stack.done[-2:] == [key, undone]
        assert [one.state for one in stack.backends] == ["up"] * 3


async def test_what_cannot_be_put_back_is_told() -> None:
    stack, notes = Stack(dead_forever=True), Notes()

    async def refused(replicas: int) -> None:
        raise OperationError("no")

    async with started(stack):
        options = Options("127.0.0.1", stack.port, seconds=0, connections=2, rate=100)
        task = asyncio.create_task(verify(options, stack, stack, notes))
        await eventually(lambda: "drain" in stack.done)
        stack.scale = refused  # type: ignore[method-assign]
        await task
    assert notes.warnings == ["the stack could not be put back: no"]


async def test_where_backends_are_out_of_reach_the_lb_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack, notes = Stack(), Notes()
    async with started(stack):

        async def unreachable(*_: object) -> None:
            raise AnswerError(Kind.UNCONNECTED, "no route to host")

        monkeypatch.setattr("lbctl.verify.lists.fetch", unreachable)
        verdict = await run(stack, notes)
    assert verdict.held
    assert notes.warnings == ["the backends cannot be reached from here: lists are as the lb says"]
