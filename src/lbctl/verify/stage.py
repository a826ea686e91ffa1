"""The stack while it is disturbed: what it is, what its lists say, and how it is put back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from lbctl.errors import DeadlineError, LbctlError, OperationError, UnsupportedError
from lbctl.verify.view import (
    CONTROLLER,
    SUPERVISOR,
    WORKER,
    Process,
    Seat,
    View,
    clients_of,
    parse_view,
    retries_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from lbctl.verify.lists import Lists
    from lbctl.verify.load import Load
    from lbctl.verify.ports import Admin, Hands

_LISTS_PATIENCE_S: Final = 10.0
_BACK_WITHIN_S: Final = 60.0  # an ejected backend stays out for 30 s at first
_ANSWER_PATIENCE_S: Final = 10.0  # of an admin port whose controller was just killed
_LOOK_INTERVAL_S: Final = 0.02


class Stage:
    """Made for a stack in which all is well: `before` is what it is to be again in the end.

    `view` is what it was when the present disturbance began, `size` how many backends are to be
    in rotation when it has ended, `names` every backend ever seen, by address. `held` is how many
    connections were open on what it kills.
    """

    def __init__(self, admin: Admin, hands: Hands, lists: Lists, load: Load, before: View) -> None:
        self.admin = admin
        self.hands = hands
        self.load = load
        self.view = self.before = before
        self.size = len(before.rotation)
        self.names = dict(before.names)
        self.held = 0
        self._lists = lists
        self._disturbed = False

    @property
    def victim(self) -> Seat:
        """The backend whose turn it is to suffer."""
        return self.view.rotation[0]

    async def look(self) -> View:
        """The stack now. Raises OperationError."""
        view = parse_view(await self.admin.status_text())
        self.names |= view.names
        return view

    async def retries(self) -> int:
        """How many requests the lb has retried since it was started."""
        return retries_of(await self._metrics())

    async def count_clients(self, workers: Collection[Process]) -> None:
        """So many connections are about to be lost with these workers: see `held`."""
        self.held = clients_of(await self._metrics(), workers)

    async def _metrics(self) -> str:
        end_s = time.monotonic() + _ANSWER_PATIENCE_S
        while True:
            try:
                return await self.admin.metrics_text()
            except OperationError:
                if time.monotonic() > end_s:
                    raise
            await asyncio.sleep(_LOOK_INTERVAL_S)

    def begin(self, *, list_stays: bool) -> None:
        """A disturbance begins; `list_stays` where it changes nothing about who is in rotation."""
        self._disturbed = True
        self.held = 0
        if not list_stays:
            self.load.expected = None

    async def lists_right(
        self,
        began_s: float,
        changed: Callable[[View], bool] | None,
        within_s: float | None = None,
    ) -> float:
        """Seconds from `began_s` until every list was right.

        They are when status shows the change and every backend in rotation serves exactly the
        rotation. Without a change nobody has to ask the lb, which may be just what is gone.
        Raises DeadlineError that says who lags after `within_s`, by default 10.
        """
        within_s = _LISTS_PATIENCE_S if within_s is None else within_s
        while True:
            try:
                unasked = changed is None and self._lists.direct
                view = self.view if unasked else await self.look()
                if changed is not None and not changed(view):
                    problem = "status does not show the change"
                else:
                    problem = await self._lists.problem(view)
            except OperationError as error:
                problem = str(error)
            now_s = time.monotonic()
            if not problem:
                return now_s - began_s
            if now_s - began_s > within_s:
                raise DeadlineError(f"after {within_s:g} s, {problem}")
            await asyncio.sleep(_LOOK_INTERVAL_S)

    def rotation_changed(self, view: View) -> bool:
        """Whether somebody came or left since the disturbance began."""
        return view.generation > self.view.generation

    async def settled(self) -> None:
        """Return when the stack is whole: `size` backends in rotation, every list right, as many
        processes as before. Answers are held to that list from then on.

        Raises DeadlineError that says what is missing.
        """
        end_s = time.monotonic() + _BACK_WITHIN_S
        while True:
            try:
                view = await self.look()
                problem = self._missing(view) or await self._lists.problem(view)
                if not problem:
                    self.view = view
                    self.load.expected = view.expected_list
                    return
                if len(view.rotation) > self.size:
                    await self.admin.scale(self.size)
            except OperationError as error:
                problem = str(error)
            if time.monotonic() > end_s:
                raise DeadlineError(f"not whole again after {_BACK_WITHIN_S:g} s: {problem}")
            await asyncio.sleep(_LOOK_INTERVAL_S)

    def _missing(self, view: View) -> str:
        if len(view.rotation) < self.size:
            out = "; ".join(f"{s.name} is {s.state}: {s.reason}" for s in view.backends if not s.up)
            return f"{len(view.rotation)} of {self.size} backends are in rotation ({out})"
        if len(view.rotation) > self.size:  # replaced by the lb, and revived by us too
            return f"{len(view.rotation)} backends are in rotation instead of {self.size}"
        if view.rollout is not None and view.rollout.under_way:
            return f"the rollout is {view.rollout.state}"
        lacking = _roles(self.before) - _roles(view)
        if lacking:
            return f"no {', '.join(role for role, _ in lacking)} in the place of the one before"
        return ""

    @contextlib.asynccontextmanager
    async def afterwards(self, undo: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Undo something when the block ends, however it ends; but where the lb cannot do it,
        nothing was done.
        """
        try:
            yield
        except UnsupportedError:
            raise
        except BaseException:
            await undo()
            raise
        await undo()

    async def restore(self) -> str:
        """Put back what a disturbance that was cut short has left; returns what could not be
        put back, "" where all is as before.
        """
        self.load.expected = None
        self.size = len(self.before.rotation)
        if not self._disturbed:
            return ""
        try:
            view = await self.look()
            wished = self.before.replicas is not None and view.replicas != self.before.replicas
            if wished or len(view.rotation) != self.size:
                await self.admin.scale(self.size)
            await self.settled()
        except LbctlError as error:
            return str(error)
        return ""


def _roles(view: View) -> Counter[tuple[str, str]]:
    """How many processes of each role each lb has. Draining workers come and go."""
    return Counter(
        (process.role, process.lb)
        for process in view.processes
        if process.role in (SUPERVISOR, CONTROLLER, WORKER)
    )
