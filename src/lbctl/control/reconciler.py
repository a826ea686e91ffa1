"""Turns facts into routes and lists: the shell around the pure Rotation.

The shell collects facts, asks for a step, and acts on the decision: it saves the membership,
hands the snapshot to the workers, and tells prober and publisher what to work on. All of it
runs on one event loop and none of it awaits, so no fact can come between a decision and its
execution. Facts that take somebody out are acted on before the call that brings them returns;
checks and acknowledgements are gathered, as hundreds come at a time.
"""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lbctl.control.prober import Prober
from lbctl.control.publisher import Publisher
from lbctl.control.tasks import Tasks, woken
from lbctl.core.health import Thresholds
from lbctl.core.membership import Debounce, Rotation, Transition
from lbctl.core.saved import Saved, from_document, to_document
from lbctl.core.text import printable
from lbctl.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lbctl.config import Control, Health
    from lbctl.control.store import Store
    from lbctl.model import BackendStatus, ControlStats, Instance, Membership, ProbeResult
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
        wall: Callable[[], datetime] = utc_now,
    ) -> None:
        self._routes = routes
        self._store = store
        self._wall = wall
        self._rotation = Rotation(
            Thresholds(fall=health.fall, rise=health.rise),
            Debounce(quiet_s=control.debounce_quiet_s, limit_s=control.debounce_limit_s),
            wall(),
            _restore(store),
        )
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
        )
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
        self._rotation.observe(instances, self._wall())
        self._apply()

    def drain(self, backend_ids: Iterable[str], reason: str) -> None:
        """Take these out of routes and list, all in one step, before this returns."""
        for backend_id in backend_ids:
            self._rotation.drain(backend_id, reason)
        self._apply()

    def undrain(self, backend_ids: Iterable[str]) -> None:
        """Let these in again."""
        for backend_id in backend_ids:
            self._rotation.undrain(backend_id)
        self._apply()

    def suspect(self, backend_id: str) -> None:
        """Requests fail on this one: check it at once."""
        self._prober.check_now(backend_id)

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
        decision = self._rotation.step(asyncio.get_running_loop().time(), self._wall())
        if decision is not None:
            membership, snapshot = decision.membership, decision.snapshot
            saved = snapshot.revision, membership.generation
            if saved != self._saved:
                self._store.save(to_document(Saved(membership, snapshot.revision)))
            if snapshot.revision != self._revision:
                self._routes.route(snapshot)
            if membership.generation != self._saved[1]:
                log.info("list %d names %d backends", saved[1], len(membership.members))
            self._revision, self._saved = snapshot.revision, saved
            self._prober.check(decision.checks)
            self._publisher.publish(membership, decision.targets)
            self._wake_at = decision.wake_at
            for transition in decision.transitions:
                _log_transition(transition)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # Questions

    @property
    def observed(self) -> bool:
        """Whether the runtime was ever listed."""
        return self._rotation.observed

    def backends(self) -> list[BackendStatus]:
        """Every known backend, in order of name: backend-9 before backend-10."""
        return sorted(self._rotation.statuses(), key=lambda status: _name_key(status.name))

    def membership(self) -> Membership:
        """The present list."""
        return self._rotation.membership

    def lagging(self) -> list[tuple[str, str]]:
        """Backends in rotation that do not hold the present list: (name, why)."""
        return self._rotation.lagging()

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
        log.info("%s is up", name)
    else:
        # Every container is seen before its first start: that is no news.
        fell = transition.after is State.DOWN and transition.before is not None
        bad = fell or transition.after is State.INVALID
        log.log(
            logging.WARNING if bad else logging.INFO,
            "%s is %s: %s",
            name,
            transition.after.value,
            reason,
        )
