"""Turns facts into routes and lists: the shell around the pure Rotation.

The shell collects facts, asks for a step, and acts on the decision: it saves the membership,
hands the snapshot to the workers, and tells prober and publisher what to work on. All of it
runs on one event loop and none of it awaits, so no fact can come between a decision and its
execution. Facts that take somebody out are acted on before the call that brings them returns;
checks and acknowledgements are gathered, as hundreds come at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lbctl.control.prober import Prober
from lbctl.control.publisher import Publisher
from lbctl.control.tasks import Tasks, woken
from lbctl.core.ejection import Terms
from lbctl.core.health import Thresholds
from lbctl.core.history import list_events, transition_event, unheard
from lbctl.core.membership import Debounce, Decision, Rotation, Transition
from lbctl.core.saved import Saved, from_document, to_document
from lbctl.core.text import printable
from lbctl.model import Cause, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lbctl.config import Control, Health
    from lbctl.control.store import Store
    from lbctl.core.history import Event
    from lbctl.core.membership import Decision
    from lbctl.model import (
        Backend,
        BackendStatus,
        ControlStats,
        Failure,
        Instance,
        Membership,
        ProbeResult,
    )
    from lbctl.ports import ListWriter, Probe, Routes

log = logging.getLogger(__name__)

_DIGITS = re.compile(r"([0-9]{1,9})")
_QUIET = frozenset({State.PROBING, State.ENROLLING, State.JOINING})


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class Reconciler:
    """Owns the membership; a Fleet for the admin API. Works while `run` runs."""

    def __init__(
        self,
        health: Health,
        control: Control,
        *,
        probe: Probe,
        writer: ListWriter,
        routes: Routes,
        store: Store,
        stats: ControlStats,
        record: Callable[[Event], None] = unheard,
    ) -> None:
        self._routes = routes
        self._record = record
        self._store = store
        self._rotation = Rotation(
            Thresholds(fall=health.fall, rise=health.rise),
            Debounce(quiet_s=control.debounce_quiet_s, limit_s=control.debounce_limit_s),
            utc_now(),
            _restore(store),
            Terms(
                failures=health.eject_failures,
                base_s=health.eject_base_s,
                limit_s=health.eject_limit_s,
                floor_percent=health.eject_floor_percent,
                rise=health.rise,
            ),
        )
        self._stats = stats
        self._failed_open = False
        self._wake = asyncio.Event()
        self._wake_at: float | None = None
        self._changed = asyncio.Event()
        self._tasks = Tasks(on_failure=self._wake.set)
        self._prober = Prober(probe, health, self._probed, self._tasks)
        self._publisher = Publisher(
            writer,
            control,
            stats,
            self._list_taken,
            self._list_refused,
            self._tasks,
            self._rotation.membership,
            record=record,
        )
        self._listed = self._rotation.membership
        self._revision = self._rotation.snapshot.revision
        self._saved = self._revision, self._rotation.membership.generation

    async def run(self) -> None:
        """Until cancelled. Raises whatever escapes one of its tasks: a fault of the program."""
        clock = asyncio.get_running_loop().time
        try:
            while True:
                due = self._wake_at
                await woken(self._wake, None if due is None else max(0.0, due - clock()))
                self._tasks.raise_failure()
                self._apply()
        finally:
            await self._tasks.close()

    # Facts

    def observe(self, instances: Sequence[Instance]) -> None:
        """The complete list of the runtime, from discovery."""
        self._rotation.observe(instances, utc_now())
        self._apply()

    def presume(self) -> None:
        """The runtime has shown no list: go on with the members of the saved one until it does."""
        self._rotation.presume(utc_now())
        self._apply()

    def drain(self, backend_ids: Iterable[str], reason: str, cause: Cause = Cause.BY_HAND) -> None:
        """Take these out of routes and list, all in one step, before this returns."""
        for backend_id in backend_ids:
            self._rotation.drain(backend_id, reason, cause)
        self._apply()

    def undrain(self, backend_ids: Iterable[str]) -> None:
        """Let these in again."""
        for backend_id in backend_ids:
            self._rotation.undrain(backend_id)
        self._apply()

    async def rewrite(self, within_s: float) -> tuple[int, list[tuple[str, str]]]:
        """Write the list to every backend anew. Returns when all that take lists have, or
        `within_s` passed: how many have, and who has not: (name, why).
        """
        progress = self._publisher.rewrite()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.wait_until(lambda: not progress()[1])
        return progress()

    def suspect(self, backend_id: str) -> None:
        """Requests fail on this one: check it at once."""
        self._prober.check_now(backend_id)

    def failing(self, backend_id: str, cause: Failure) -> None:
        """A worker saw a row of requests fail on this one: if it goes, then before this returns."""
        self._rotation.failing(backend_id, cause)
        self._apply()

    def _probed(self, backend_id: str, result: ProbeResult) -> None:
        self._rotation.probed(backend_id, result)
        self._wake.set()

    def _list_taken(self, backend_id: str, generation: int) -> None:
        self._rotation.list_taken(backend_id, generation)
        self._wake.set()

    def _list_refused(self, backend_id: str, reason: str) -> None:
        self._rotation.list_refused(backend_id, reason)
        self._wake.set()

    # What follows

    def _apply(self) -> None:
        decision = self._rotation.step(asyncio.get_running_loop().time(), utc_now())
        if decision is not None:
            membership, snapshot = decision.membership, decision.snapshot
            saved = snapshot.revision, membership.generation
            if saved != self._saved:
                self._store.save(to_document(Saved(membership, snapshot.revision)))
            if snapshot.revision != self._revision:
                self._routes.route(snapshot)
            if membership.generation != self._saved[1]:
                log.info("list %d names %d backends", saved[1], len(membership.members))
            self._tell(decision)  # before anybody is sent the list
            self._revision, self._saved = snapshot.revision, saved
            self._prober.check(decision.checks)
            self._publisher.publish(membership, decision.targets)
            if decision.wake_at != self._wake_at:
                self._wake_at = decision.wake_at
                self._wake.set()  # `run` may be asleep until the time before, or for ever
            self._stats.ejections.update((name, cause.value) for name, cause in decision.ejections)
            self._log_opening(decision)
            for transition in decision.transitions:
                _log_transition(transition)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _tell(self, decision: Decision) -> None:
        """The history: who went, the list without them, who gets clients."""
        events = [(one, transition_event(one)) for one in decision.transitions]
        for transition, event in events:
            if event is not None and transition.after is not State.UP:
                self._record(event)
        before, self._listed = self._listed, decision.membership
        if before.generation != self._listed.generation:
            reasons = {one.id: one.reason for one in decision.transitions}
            for news in list_events(before, self._listed, reasons):
                self._record(news)
        for transition, event in events:
            if event is not None and transition.after is State.UP:
                self._record(event)

    def _log_opening(self, decision: Decision) -> None:
        """Said once, however long it lasts."""
        if decision.fail_open and not self._failed_open:
            log.warning("no backend is fit: all that ever were, and still run, are served")
        elif self._failed_open and not decision.fail_open:
            log.info("backends that are not fit are not served any more")
        self._failed_open = decision.fail_open

    # Questions

    @property
    def observed(self) -> bool:
        """Whether the runtime was ever listed."""
        return self._rotation.observed

    def backends(self) -> list[BackendStatus]:
        """Every known backend, in order of name: backend-9 before backend-10."""
        return sorted(self._rotation.statuses(), key=lambda status: _name_key(status.name))

    def statuses(self) -> dict[str, BackendStatus]:
        """The same, by id."""
        return {status.id: status for status in self.backends()}

    def membership(self) -> Membership:
        """The present list."""
        return self._rotation.membership

    def lagging(self) -> list[tuple[str, str]]:
        """Backends in rotation that do not hold the present list: (name, why)."""
        return self._rotation.lagging()

    def recipients(self) -> list[Backend]:
        """The backends that are sent lists."""
        return self._publisher.recipients()

    async def departures(self, seen: int) -> int:
        """How often one was taken off the recipients, as soon as it is more often than `seen`."""
        await self.wait_until(lambda: self._publisher.departures > seen)
        return self._publisher.departures

    @property
    def decides(self) -> bool:
        """Whether it knows who is there, or goes on with those that were served."""
        return self._rotation.decides

    async def wait_until(self, check: Callable[[], bool]) -> None:
        """Return when `check` holds; it is asked again after every fact."""
        while not check():
            await self._changed.wait()


def _restore(store: Store) -> Saved | None:
    document = store.load()
    if document is None:
        return None
    try:
        return from_document(document)
    except ValueError as error:
        log.warning("the saved membership is of no use, starting afresh: %s", error)
        return None


def _name_key(name: str) -> list[tuple[int, int, str]]:
    parts = (part for part in _DIGITS.split(name) if part)
    return [(0, int(part), "") if _DIGITS.fullmatch(part) else (1, 0, part) for part in parts]


def _log_transition(transition: Transition) -> None:
    name, reason = printable(transition.name), printable(transition.reason)
    if transition.after is None:
        log.info("%s is gone", name)
    elif transition.before is State.PROBING and transition.after is State.ENROLLING:
        log.info("%s passed its first check", name)
    elif transition.after in _QUIET and transition.before in (None, *_QUIET):
        log.debug("%s is %s: %s", name, transition.after.value, reason)
    elif transition.after is State.UP:
        log.info("%s is up%s", name, f": {reason}" if reason else "")
    else:
        # Every container is seen before its first start: that is no news.
        fell = transition.after is State.DOWN and transition.before is not None
        bad = fell or transition.after in (State.INVALID, State.EJECTED)
        log.log(
            logging.WARNING if bad else logging.INFO,
            "%s is %s: %s",
            name,
            transition.after.value,
            reason,
        )
