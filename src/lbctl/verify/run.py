"""One run: is all well, load on, one disturbance after the other, the verdict."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from lbctl.core.text import printable
from lbctl.errors import DeadlineError, LbctlError, OperationError, UnsupportedError
from lbctl.verify.answers import AnswerError, check_list
from lbctl.verify.disturbances import schedule
from lbctl.verify.lists import Lists
from lbctl.verify.load import ANSWER_TIMEOUT_S, Load, fetch
from lbctl.verify.promises import NOTHING_FAILS, Row, Seen, Verdict, judged
from lbctl.verify.stage import Stage
from lbctl.verify.view import parse_view, trouble

if TYPE_CHECKING:
    from lbctl.verify.disturbances import Disturbance
    from lbctl.verify.ports import Admin, Hands
    from lbctl.verify.view import View

_COUNTED_S: Final = 0.5
"""Workers tell what they counted every quarter of a second; a disturbance has that long, and as
much again, to have consequences."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to verify. `seconds` is how long it takes at least: what the disturbances leave of it
    is calm between them. `rate` is in requests a second.
    """

    host: str
    port: int
    seconds: float
    connections: int
    rate: float


class Timeline(Protocol):
    """Where a run tells what it does."""

    def begins(self, title: str, load: Load) -> None:
        """A disturbance is under way."""

    def row(self, row: Row) -> None:
        """It was seen through."""

    def warn(self, text: str) -> None:
        """Something that whoever reads the timeline must know."""


async def verify(options: Options, admin: Admin, hands: Hands, timeline: Timeline) -> Verdict:
    """Disturb the stack in every way that applies to it, and put it back as it was.

    Raises OperationError where something is wrong before it begins.
    """
    before = parse_view(await admin.status_text())
    lists = await _refuse_trouble(options, before)
    if not lists.direct:
        timeline.warn("the backends cannot be reached from here: lists are as the lb says")
    load = Load(options.host, options.port, connections=options.connections, rate=options.rate)
    stage = Stage(admin, hands, lists, load, before)
    disturbances = await schedule(stage)
    async with load:
        try:
            rows = await _Run(stage, timeline, options.seconds).through(disturbances)
        finally:
            left = await stage.restore()
            if left:
                timeline.warn(f"the stack could not be put back: {left}")
    return Verdict(tuple(rows))


async def _refuse_trouble(options: Options, view: View) -> Lists:
    """How lists are read. Raises OperationError unless all is well."""
    problem = trouble(view)
    if problem:
        raise OperationError(f"there is nothing to verify while something is wrong: {problem}")
    lists = await Lists.of(view.rotation)
    problem = await lists.problem(view)
    if problem:
        raise OperationError(f"a list is wrong before anything is disturbed: {problem}")
    for target in (b"/", b"/ips.txt"):
        who = ""
        try:
            answer = await fetch(options.host, options.port, target, ANSWER_TIMEOUT_S)
            who = view.names.get(answer.served_by, "")
            check_list(answer, b"GET", view.expected_list)
        except AnswerError as error:
            what = f"{error} from {who}" if who else str(error)
            raise OperationError(
                f"GET {target.decode()} fails before anything is disturbed: {what}"
            ) from None
    return lists


class _Run:
    """Takes a stage through its disturbances."""

    def __init__(self, stage: Stage, timeline: Timeline, seconds: float) -> None:
        self._stage = stage
        self._timeline = timeline
        self._seconds = seconds
        self._retries = 0

    async def through(self, disturbances: list[Disturbance]) -> list[Row]:
        """The rows: first of a time in which nothing is done, then one a disturbance."""
        stage, seconds = self._stage, self._seconds
        began_s = time.monotonic()
        slots = 1 + sum(not one.skipped for one in disturbances)
        self._retries = await stage.retries()
        stage.load.expected = stage.view.expected_list
        rows: list[Row] = []

        def add(row: Row) -> None:
            rows.append(row)
            self._timeline.row(row)

        self._timeline.begins("calm", stage.load)
        await _sleep_until(began_s + max(seconds / slots, _COUNTED_S))
        add(judged("calm", "nothing", NOTHING_FAILS, await self._seen(), stage.names))
        done, whole = 1, True
        for one in disturbances:
            if one.skipped or not whole:
                skipped = one.skipped or "not tried: the stack was no longer whole"
                add(Row(one.key, one.title, one.promise, skipped=skipped))
                continue
            self._timeline.begins(one.title, stage.load)
            done += 1
            row = await self._disturb(one, calm_until_s=began_s + seconds * done / slots)
            whole = not (row.seen and row.seen.problem)
            add(row)
        return rows

    async def _disturb(self, one: Disturbance, calm_until_s: float) -> Row:
        stage = self._stage
        lists_s: float | None = None
        lists_problem = problem = ""
        stage.begin(list_stays=one.list_stays)
        try:
            lists_s = await one.act(stage)
        except UnsupportedError as error:
            stage.load.expected = stage.view.expected_list
            return Row(
                one.key, one.title, one.promise, skipped=f"this lb lacks it ({_short(error)})"
            )
        except DeadlineError as error:
            lists_problem = str(error)
        except LbctlError as error:
            problem = f"it failed: {error}"
        try:
            await stage.settled()
        except LbctlError as error:
            problem = problem or str(error)
        await _sleep_until(calm_until_s)
        seen = await self._seen(lists_s, lists_problem, problem)
        promise = replace(one.promise, in_flight=stage.held)
        return judged(one.key, one.title, promise, seen, stage.names)

    async def _seen(
        self, lists_s: float | None = None, lists_problem: str = "", problem: str = ""
    ) -> Seen:
        """What there was to see since the last row."""
        await asyncio.sleep(_COUNTED_S)
        retries, before = await self._stage.retries(), self._retries
        self._retries = retries
        window = self._stage.load.turn()
        return Seen(window, max(retries - before, 0), lists_s, lists_problem, problem)


def _short(error: Exception) -> str:
    """What fits into a line of the timeline."""
    return printable(str(error), 50)


async def _sleep_until(moment_s: float) -> None:
    """On the monotonic clock; one that has passed is now."""
    await asyncio.sleep(moment_s - time.monotonic())
