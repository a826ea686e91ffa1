"""What is done to a stack, in which order, and what each of it may cost."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from lbctl.errors import DeadlineError, OperationError
from lbctl.verify.promises import NOTHING_FAILS, Promise
from lbctl.verify.view import CONTROLLER, SUPERVISOR, WORKER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbctl.verify.stage import Stage
    from lbctl.verify.view import Process, View

MANY: Final = 10  # backends that scaling goes up to, and
MORE: Final = 3  # how many more, at least
PAUSE_S: Final = 5.0
_NO_STATUS: Final = "299"
"""What no backend answers with: as the expected status it makes every check fail."""
_CHECK_INTERVAL_S: Final = 0.3
_CHECKS_WITHIN_S: Final = 30.0
_ROLLOUT_WITHIN_S: Final = 300.0
_LOOK_INTERVAL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One line of the timeline to be.

    `act` does it and returns the seconds until every list was right, None where the pause was
    over before anybody noticed. It raises DeadlineError if they did not become right,
    UnsupportedError if this lb has no such thing, OperationError if it failed; what it did that
    does not end by itself it has undone. `skipped` says why it does not apply here.
    """

    key: str
    title: str
    act: Callable[[Stage], Awaitable[float | None]]
    promise: Promise = NOTHING_FAILS
    list_stays: bool = False
    skipped: str = ""


async def schedule(stage: Stage) -> list[Disturbance]:
    """All of them, in order."""
    view, hands = stage.view, stage.hands
    size = len(view.rotation)
    most, fewest = max(MANY, size + MORE), max(2, size - 1)
    one_lb = "there is one lb: killed, it takes the address along" if len(view.lbs) < 2 else ""
    no_guard = "" if await hands.has_guard() else "there is no guard"
    return [
        Disturbance("scale-up", f"scale {size} -> {most}", partial(_scale, most)),
        Disturbance("scale-down", f"scale {most} -> {fewest}", partial(_scale, fewest)),
        Disturbance(
            "scale-back", f"scale {fewest} -> {size}", partial(_scale, size),
            skipped=f"{size} is what is left" if size == fewest else "",
        ),
        Disturbance("drain", "drain and undrain a backend", _drain),
        Disturbance("rollout", "rollout", _rollout),
        Disturbance("reload", "reload", _reload, list_stays=True),
        Disturbance("checks", "all checks fail at once", _fail_checks),
        Disturbance(
            "upgrade", "upgrade", _upgrade, list_stays=True, skipped=hands.cannot_upgrade()
        ),
        Disturbance("kill-backend", "kill -9 a backend", _kill_backend),
        Disturbance("stop-backend", "stop a backend", _stop_backend, skipped=hands.cannot_stop()),
        Disturbance(
            "pause-backend", f"pause a backend for {PAUSE_S:g} s", _pause_backend,
            Promise(lists_within_s=None),
        ),
        Disturbance("kill-worker", "kill -9 a worker", _kill_worker, list_stays=True),
        Disturbance("kill-controller", "kill -9 the controller", _kill_controller, list_stays=True),
        Disturbance(
            "kill-lb", "kill -9 one lb", _kill_lb, list_stays=True, skipped=one_lb
        ),
        Disturbance(
            "kill-guard", "kill -9 the guard", _kill_guard, list_stays=True, skipped=no_guard
        ),
        Disturbance(
            "restart-engine", "restart the engine", _restart_engine, list_stays=True,
            skipped=await hands.cannot_restart_engine(),
        ),
    ]  # fmt: skip


# A command has done its work when it returns: its clock starts then.


async def _scale(size: int, stage: Stage) -> float:
    stage.size = size
    await stage.admin.scale(size)
    return await stage.lists_right(time.monotonic(), lambda view: len(view.rotation) == size)


async def _drain(stage: Stage) -> float:
    victim = stage.victim
    async with stage.afterwards(partial(stage.admin.undrain, victim.id)):
        await stage.admin.drain(victim.id)
        return await stage.lists_right(time.monotonic(), _left(victim.id))


async def _rollout(stage: Stage) -> float:
    revision = await stage.admin.rollout()
    replaced = {seat.id for seat in stage.view.rotation}
    end_s = time.monotonic() + _ROLLOUT_WITHIN_S
    while True:
        rollout = (await stage.look()).rollout
        if rollout is None or rollout.revision != revision:
            raise OperationError(f"status tells nothing of revision {revision}, which was begun")
        if rollout.state == "done":
            break
        if not rollout.under_way:
            raise OperationError(f"the rollout is {rollout.state}: {rollout.message}")
        if time.monotonic() > end_s:
            raise OperationError(f"the rollout is not done after {_ROLLOUT_WITHIN_S:g} s")
        await asyncio.sleep(_LOOK_INTERVAL_S)
    return await stage.lists_right(
        time.monotonic(), lambda view: replaced.isdisjoint(seat.id for seat in view.rotation)
    )


async def _reload(stage: Stage) -> float:
    await stage.admin.reload({})
    await _refuse_kept(stage, WORKER)
    return await stage.lists_right(time.monotonic(), None)


async def _fail_checks(stage: Stage) -> float:
    """Expect of all backends what none of them answers: they are as well as before, and the
    checks say otherwise. They fall one after the other, and with the last of them all are let in
    again, so the list is a shorter one for a moment.
    """
    failing = {"probe_status": _NO_STATUS, "probe_interval_s": _CHECK_INTERVAL_S}
    before = {name: stage.view.settings[name] for name in failing}

    async def put_back() -> None:
        await stage.admin.reload(before)
        await _reasons(stage, lambda reasons: not any(reasons))

    async with stage.afterwards(put_back):
        await stage.admin.reload(failing)
        await _reasons(stage, all)
        return await stage.lists_right(time.monotonic(), None)


async def _reasons(stage: Stage, reached: Callable[[list[str]], bool]) -> None:
    """Until what is said of those in rotation is as it should be; "" is that all is well."""
    end_s = time.monotonic() + _CHECKS_WITHIN_S
    while True:
        rotation = (await stage.look()).rotation
        if len(rotation) == stage.size and reached([seat.reason for seat in rotation]):
            return
        if time.monotonic() > end_s:
            said = "; ".join(f"{seat.name}: {seat.reason or 'well'}" for seat in rotation)
            raise OperationError(f"{_CHECKS_WITHIN_S:g} s after the checks changed: {said}")
        await asyncio.sleep(_LOOK_INTERVAL_S)


async def _upgrade(stage: Stage) -> float:
    await stage.hands.upgrade()
    await _refuse_kept(stage, SUPERVISOR)
    return await stage.lists_right(time.monotonic(), None)


async def _refuse_kept(stage: Stage, role: str) -> None:
    """Raises OperationError if one of this role was not replaced."""
    before = set(stage.view.of_role(role))
    kept = before.intersection((await stage.look()).of_role(role))
    if kept:
        raise OperationError(f"{len(kept)} of {len(before)} {role}s are the ones of before")


# A fault begins when it is done: its clock starts before.


async def _kill_backend(stage: Stage) -> float:
    victim = stage.victim
    async with stage.afterwards(partial(stage.hands.revive_backend, victim)):
        began_s = time.monotonic()
        await stage.hands.kill_backend(victim)
        return await stage.lists_right(began_s, stage.rotation_changed)


async def _stop_backend(stage: Stage) -> float:
    victim = stage.victim
    async with stage.afterwards(partial(stage.hands.revive_backend, victim)):
        began_s = time.monotonic()
        stopping = asyncio.create_task(stage.hands.stop_backend(victim))
        try:
            return await stage.lists_right(began_s, _left(victim.id))
        finally:
            await stopping


async def _pause_backend(stage: Stage) -> float | None:
    victim = stage.victim
    async with stage.afterwards(partial(stage.hands.resume_backend, victim)):
        began_s = time.monotonic()
        await stage.hands.pause_backend(victim)
        try:
            lists_s = await stage.lists_right(began_s, _left(victim.id), within_s=PAUSE_S)
        except DeadlineError:
            lists_s = None  # so many failed checks as it takes need more time than the pause
        await asyncio.sleep(began_s + PAUSE_S - time.monotonic())
    return lists_s


async def _kill_worker(stage: Stage) -> float:
    worker = stage.view.of_role(WORKER)[0]
    await stage.count_clients([worker])
    return await _kill(stage, worker)


async def _kill_controller(stage: Stage) -> float:
    controllers = stage.view.of_role(CONTROLLER)
    leading = [process for process in controllers if process.lb == stage.view.leader]
    return await _kill(stage, (leading or list(controllers))[0])


async def _kill(stage: Stage, process: Process) -> float:
    began_s = time.monotonic()
    await stage.hands.kill_process(process)
    right_s = await stage.lists_right(began_s, None)
    await _replaced(stage, process)
    return right_s


async def _replaced(stage: Stage, process: Process) -> None:
    """Until status no longer shows it: a status from before must not pass for one from after."""
    end_s = time.monotonic() + _ROLLOUT_WITHIN_S
    while True:
        try:
            if process not in (await stage.look()).processes:
                return
        except OperationError:
            pass  # nobody answers for as long as there is no controller
        if time.monotonic() > end_s:
            raise OperationError(f"{process.role} {process.pid} runs on, though it was killed")
        await asyncio.sleep(_LOOK_INTERVAL_S)


async def _kill_lb(stage: Stage) -> float:
    lb = stage.view.leader or stage.view.lbs[0]
    await stage.count_clients([one for one in stage.view.of_role(WORKER) if one.lb == lb])
    async with stage.afterwards(partial(stage.hands.revive_lb, lb)):
        began_s = time.monotonic()
        await stage.hands.kill_lb(lb)
        return await stage.lists_right(began_s, None)


async def _kill_guard(stage: Stage) -> float:
    async with stage.afterwards(stage.hands.revive_guard):
        began_s = time.monotonic()
        await stage.hands.kill_guard()
        return await stage.lists_right(began_s, None)


async def _restart_engine(stage: Stage) -> float:
    """The load is held to the list meanwhile; what is measured begins with the new engine."""
    await stage.hands.restart_engine()
    return await stage.lists_right(time.monotonic(), None)


def _left(backend_id: str) -> Callable[[View], bool]:
    """Whether this one is out of rotation."""
    return lambda view: all(seat.id != backend_id for seat in view.rotation)
