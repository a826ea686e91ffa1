"""Checks every backend that runs, each in a task of its own."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lbctl.control.tasks import woken
from lbctl.core.health import Pace, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lbctl.config import Health
    from lbctl.control.tasks import Tasks
    from lbctl.core.membership import Course
    from lbctl.model import ProbeResult
    from lbctl.ports import Probe


@dataclass(slots=True)
class _Check:
    """The checks of one backend, from its start to its end."""

    course: Course
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Prober:
    """Runs the checks it was last told of; each result goes to `report(id, result)`."""

    def __init__(
        self,
        probe: Probe,
        health: Health,
        report: Callable[[str, ProbeResult], None],
        tasks: Tasks,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._probe = probe
        self._pace = Pace(
            interval_s=health.probe_interval_s,
            first_interval_s=health.first_probe_interval_s,
            first_period_s=health.first_probe_period_s,
            jitter=health.probe_jitter,
        )
        self._report = report
        self._tasks = tasks
        self._chance = chance
        self._checks: dict[str, _Check] = {}

    def check(self, courses: Mapping[str, Course]) -> None:
        """From now on check exactly these; a new course starts with a check at once."""
        for backend_id, check in list(self._checks.items()):
            if courses.get(backend_id) != check.course:
                del self._checks[backend_id]
                if check.task is not None:
                    check.task.cancel()
        for backend_id, course in courses.items():
            if backend_id not in self._checks:
                check = self._checks[backend_id] = _Check(course)
                check.task = self._tasks.spawn(self._run(check))

    def check_now(self, backend_id: str) -> None:
        """Somebody doubts this one: bring its next check forward."""
        check = self._checks.get(backend_id)
        if check is not None:
            check.hurry.set()

    async def _run(self, check: _Check) -> None:
        clock = asyncio.get_running_loop().time
        schedule = Schedule(self._pace, clock())
        backend = check.course.backend
        while True:
            result = await self._probe(backend)
            self._report(backend.id, result)
            delay_s = schedule.delay_s(result.passed, clock(), self._chance())
            # A thousand requests that fail at once are one reason to look, not a thousand.
            spared_s = min(delay_s, self._pace.first_interval_s)
            await asyncio.sleep(spared_s)
            await woken(check.hurry, delay_s - spared_s)
