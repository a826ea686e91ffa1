"""Who is in rotation: one pure reducer from facts to a decision.

Facts come in through `observe`, `probed`, `list_taken`, `list_refused`, `drain` and `undrain`;
`step` says what follows from all of them together. Nothing else changes a membership.

The way in. A backend that runs and passes its checks is a *target*: it is sent the present
list, in rotation or not. Once it has taken one, it may enter; those that may enter within a
moment enter together, in one new generation. It then is in the list (JOINING), and is routed
(UP) as soon as it has taken a list that names it. So nobody gets a client before it holds the
right list, and one that cannot be written to never enters, nor makes the list flap.

The way out has no waiting: in the step after the fact, a backend that stopped running, fell,
or is drained is neither routed nor listed.

Theory of restarts: a backend that ran, did not, and runs again is a new one, as is one that
came back on another address: it starts a new *course*, has passed no check and holds no list.
A restored membership is believed as far as the first observation bears it out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lbctl.core.health import Health, Standing, Thresholds
from lbctl.core.iplist import address_key
from lbctl.model import (
    Backend,
    BackendStatus,
    EngineHealth,
    Instance,
    Member,
    Membership,
    Phase,
    ProbeResult,
    Snapshot,
    State,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from lbctl.core.saved import Saved


@dataclass(frozen=True, slots=True)
class Debounce:
    """Newcomers enter after `quiet_s` without another one, `limit_s` after the first at most."""

    quiet_s: float = 0.02
    limit_s: float = 0.1


@dataclass(frozen=True, slots=True)
class Course:
    """One backend from a start to its end. Another number: whatever was known of it is void."""

    backend: Backend
    number: int


@dataclass(frozen=True, slots=True)
class Transition:
    """A backend's change of state; `before` is None for a new one, `after` for one that went."""

    id: str
    name: str
    before: State | None
    after: State | None
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done now; each part is the whole truth, not a difference.

    `checks` are to be probed, `targets` to be sent the membership, both by id. At `wake_at`
    (monotonic seconds; None: never) a step is due even if no fact comes in.
    """

    snapshot: Snapshot
    membership: Membership
    checks: Mapping[str, Course]
    targets: Mapping[str, Course]
    transitions: tuple[Transition, ...]
    wake_at: float | None


@dataclass(slots=True)
class _Listing:
    """A place in the list: since when, from which generation, and whether clients are sent."""

    since: datetime
    generation: int
    routed: bool = False


@dataclass(slots=True)
class _Entry:
    """All that is known of one instance."""

    instance: Instance
    course: int
    health: Health
    since: datetime
    state: State | None = None
    reason: str = ""
    last_check: str = ""
    taken: int | None = None  # the generation it acknowledged; None: none on this course
    refusal: str = ""  # why it did not take the list; empty if it did
    listing: _Listing | None = None
    displaced_by: str = ""  # the name of the backend that has its address now

    @property
    def routed(self) -> bool:
        return self.listing is not None and self.listing.routed


class Rotation:
    """Owns the membership and the routes.

    `now` is monotonic seconds; `at` is the same moment on the wall, for people.
    """

    def __init__(
        self, thresholds: Thresholds, debounce: Debounce, at: datetime, saved: Saved | None = None
    ) -> None:
        self._thresholds = thresholds
        self._debounce = debounce
        self._entries: dict[str, _Entry] = {}
        self._drained: dict[str, str] = {}  # id: reason
        self._gone: list[Transition] = []
        self._courses = 0
        self._observed = False
        self._decided = False
        self._dirty = False
        self._candidates: frozenset[str] = frozenset()
        self._first_candidate_at = 0.0
        self._last_candidate_at = 0.0
        self._wake_at: float | None = None
        self.membership = saved.membership if saved else Membership(0, at, ())
        revision = saved.revision if saved else 0
        self.snapshot = Snapshot(revision, self.membership.generation, ())

    # Facts

    @property
    def observed(self) -> bool:
        """Whether a complete list was ever seen; before that nothing is decided."""
        return self._observed

    def observe(self, instances: Iterable[Instance], at: datetime) -> None:
        """The complete list of the runtime. Whoever is not in it is gone."""
        present = {instance.id: instance for instance in instances}
        for gone in self._entries.keys() - present.keys():
            self._forget(gone)
        restored = {} if self._observed else {m.backend.id: m for m in self.membership.members}
        for instance in sorted(present.values(), key=lambda instance: instance.id):
            entry = self._entries.get(instance.id)
            if entry is None:
                self._entries[instance.id] = self._new(instance, restored.get(instance.id), at)
            else:
                self._meet(entry, instance)
        self._observed = True
        self._dirty = True

    def probed(self, backend_id: str, result: ProbeResult) -> None:
        """A check of a backend ended."""
        entry = self._entries.get(backend_id)
        if entry is None:
            return
        before, said = entry.health, entry.last_check
        entry.health = before.after(result.passed, self._thresholds)
        entry.last_check = result.error or f"passed in {result.duration_s * 1000:.0f} ms"
        # Hundreds of checks a second say what the ones before them said; those cost no step.
        news = entry.health.standing is not before.standing
        if news or (result.error and result.error != said):
            self._dirty = True

    def list_taken(self, backend_id: str, generation: int) -> None:
        """A backend acknowledged this generation."""
        entry = self._entries.get(backend_id)
        if entry is None or not self._is_target(entry):
            return
        if not entry.routed or entry.refusal:
            self._dirty = True
        entry.taken = generation
        entry.refusal = ""

    def list_refused(self, backend_id: str, reason: str) -> None:
        """A write failed. One in rotation stays; one on its way in starts again from outside."""
        entry = self._entries.get(backend_id)
        if entry is None or not self._is_target(entry):
            return
        if not entry.routed:
            entry.listing = None
            entry.taken = None
        entry.refusal = reason
        self._dirty = True

    def drain(self, backend_id: str, reason: str) -> None:
        """Take it out until `undrain`; also one not seen yet."""
        self._drained[backend_id] = reason
        self._dirty = True

    def undrain(self, backend_id: str) -> None:
        """Let it in again."""
        if self._drained.pop(backend_id, None) is not None:
            self._dirty = True

    # What follows

    def step(self, now: float, at: datetime) -> Decision | None:
        """What is to be done; None while nothing is known, or nothing changed."""
        due = self._wake_at is not None and now >= self._wake_at
        if not self._observed or not (self._dirty or due):
            return None
        self._dirty = False
        self._settle_claims()
        bars = self._bars()
        for backend_id in bars:
            self._entries[backend_id].listing = None
        for entry in self._entries.values():
            if not self._is_target(entry):
                entry.taken, entry.refusal = None, ""
        self._commit(self._admit(bars, now), at)
        self._route()
        transitions = self._settle(bars, at)
        return Decision(
            snapshot=self.snapshot,
            membership=self.membership,
            checks={e.instance.id: _course(e) for e in self._entries.values() if self._runs(e)},
            targets={
                e.instance.id: _course(e) for e in self._entries.values() if self._is_target(e)
            },
            transitions=transitions,
            wake_at=self._wake_at,
        )

    def statuses(self) -> list[BackendStatus]:
        """One row a known backend, as of the last step."""
        return [self._status(entry) for entry in self._entries.values() if entry.state is not None]

    def lagging(self) -> list[tuple[str, str]]:
        """Backends in rotation that have not taken the present list: (name, why)."""
        return [
            (entry.instance.name, self._lag(entry))
            for entry in self._entries.values()
            if entry.routed and self._lag(entry)
        ]

    # Entries

    def _new(self, instance: Instance, member: Member | None, at: datetime) -> _Entry:
        entry = _Entry(instance, self._next_course(), Health(), at)
        if member is not None and not _moved(instance.backend, member.backend):
            # It was in rotation when the last controller ended, and still runs: it stays
            # until its checks say otherwise, or every restart would cost the whole service.
            entry.health = Health(Standing.HEALTHY)
            entry.listing = _Listing(member.since, self.membership.generation, routed=True)
        return entry

    def _meet(self, entry: _Entry, instance: Instance) -> None:
        before, entry.instance = entry.instance, instance
        started = before.phase is not Phase.RUNNING and instance.phase is Phase.RUNNING
        if started or _moved(before.backend, instance.backend):
            entry.course = self._next_course()
            entry.health = Health()
            entry.last_check = entry.refusal = ""
            entry.taken = entry.listing = None

    def _forget(self, backend_id: str) -> None:
        entry = self._entries.pop(backend_id)
        self._drained.pop(backend_id, None)
        self._gone.append(
            Transition(backend_id, entry.instance.name, entry.state, None, "it is gone")
        )

    def _next_course(self) -> int:
        self._courses += 1
        return self._courses

    # Rules

    def _runs(self, entry: _Entry) -> bool:
        instance = entry.instance
        running = instance.phase is Phase.RUNNING and instance.backend is not None
        return running and not entry.displaced_by

    def _is_target(self, entry: _Entry) -> bool:
        backend = entry.instance.backend
        return self._runs(entry) and entry.health.fit and backend is not None and backend.publish

    def _settle_claims(self) -> None:
        """Addresses are unique: where two claim one, it belongs to who came last, because it
        is given out again only after its last owner lost it.
        """
        holders: dict[str, _Entry] = {}
        for entry in self._entries.values():
            entry.displaced_by = ""
            backend = entry.instance.backend
            if backend is None or entry.instance.phase is not Phase.RUNNING:
                continue
            holder = holders.setdefault(backend.ip, entry)
            if holder is not entry:
                older, newer = sorted((holder, entry), key=lambda e: e.course)
                older.displaced_by = newer.instance.name
                holders[backend.ip] = newer

    def _bars(self) -> dict[str, tuple[State, str]]:
        """Those that may not be in rotation: id -> (state, why)."""
        return {
            backend_id: bar
            for backend_id, entry in self._entries.items()
            if (bar := self._bar(entry)) is not None
        }

    def _bar(self, entry: _Entry) -> tuple[State, str] | None:
        instance, health = entry.instance, entry.health
        if instance.phase is Phase.EXITED:
            return State.DOWN, instance.problem or "it has exited"
        if instance.phase is Phase.STOPPING:
            return State.DRAINING, "it was told to stop"
        if instance.backend is None:
            return State.INVALID, instance.problem
        if instance.phase is Phase.PAUSED:
            return State.DOWN, "it is paused"
        if entry.displaced_by:
            return State.INVALID, f"{instance.backend.ip} belongs to {entry.displaced_by} now"
        if instance.id in self._drained:
            return State.DRAINING, self._drained[instance.id]
        if instance.health is EngineHealth.UNHEALTHY:
            return State.DOWN, "its Docker HEALTHCHECK says unhealthy"
        if health.standing is Standing.NEW:
            why = f"its check failed: {entry.last_check}" if entry.last_check else "not checked yet"
            return State.PROBING, why
        if health.standing is Standing.DOWN:
            return State.DOWN, f"its checks fail: {entry.last_check}"
        if health.standing is Standing.RISING:
            return State.DOWN, f"passed {health.streak} of {self._thresholds.rise} checks"
        return None

    def _admit(self, bars: Mapping[str, object], now: float) -> list[_Entry]:
        """Those that enter now; sets when to look again for those that wait."""
        candidates = {
            backend_id: entry
            for backend_id, entry in self._entries.items()
            if backend_id not in bars
            and entry.listing is None
            and (entry.taken is not None or not self._is_target(entry))
        }
        if not candidates:
            self._candidates, self._wake_at = frozenset(), None
            return []
        if not self._candidates:
            self._first_candidate_at = now
        if candidates.keys() - self._candidates:
            self._last_candidate_at = now
        due = min(
            self._last_candidate_at + self._debounce.quiet_s,
            self._first_candidate_at + self._debounce.limit_s,
        )
        # A generation made for those who leave takes the newcomers along.
        if now >= due or self._members() != self.membership.members:
            self._candidates, self._wake_at = frozenset(), None
            return list(candidates.values())
        self._candidates, self._wake_at = frozenset(candidates), due
        return []

    def _commit(self, entering: list[_Entry], at: datetime) -> None:
        generation = self.membership.generation + 1
        for entry in entering:
            entry.listing = _Listing(at, generation)
        members = self._members()
        if members != self.membership.members:
            self.membership = Membership(generation, at, members)

    def _members(self) -> tuple[Member, ...]:
        members = [
            Member(entry.instance.backend, entry.listing.since)
            for entry in self._entries.values()
            if entry.listing is not None and entry.instance.backend is not None
        ]
        return tuple(sorted(members, key=lambda member: address_key(member.backend.ip)))

    def _route(self) -> None:
        routes = []
        for member in self.membership.members:
            entry = self._entries[member.backend.id]
            listing = entry.listing
            if listing is None:
                continue
            if not member.backend.publish or (entry.taken or 0) >= listing.generation:
                listing.routed = True
            if listing.routed:
                routes.append(member.backend)
        # The first decision is always news: workers still route on the last controller's.
        if tuple(routes) != self.snapshot.routes or not self._decided:
            self._decided = True
            revision = self.snapshot.revision + 1
            self.snapshot = Snapshot(revision, self.membership.generation, tuple(routes))

    def _settle(
        self, bars: Mapping[str, tuple[State, str]], at: datetime
    ) -> tuple[Transition, ...]:
        """Write down where everyone stands now; returns what changed."""
        transitions, self._gone = self._gone, []
        for backend_id, entry in self._entries.items():
            before = entry.state
            entry.state, entry.reason = bars.get(backend_id) or self._place(entry)
            if entry.state is not before:
                entry.since = at
                transitions.append(
                    Transition(backend_id, entry.instance.name, before, entry.state, entry.reason)
                )
        return tuple(transitions)

    def _place(self, entry: _Entry) -> tuple[State, str]:
        """The state of one that nothing bars."""
        if entry.listing is None:
            if entry.refusal:
                return State.ENROLLING, f"it does not take the list: {entry.refusal}"
            if entry.taken is None and self._is_target(entry):
                return State.ENROLLING, "it is being sent the list"
            return State.ENROLLING, "it enters with the next list"
        if not entry.listing.routed:
            return State.JOINING, "it is being sent the list that names it"
        if entry.health.standing is Standing.FALLING:
            failed = f"failed {entry.health.streak} of {self._thresholds.fall} checks"
            return State.UP, f"{failed}: {entry.last_check}"
        return State.UP, self._lag(entry) if entry.refusal else ""

    def _lag(self, entry: _Entry) -> str:
        """Why it does not hold the present list; empty if it does, or needs none."""
        backend, present = entry.instance.backend, self.membership.generation
        if backend is None or not backend.publish or entry.taken == present:
            return ""
        holds = "no list yet" if entry.taken is None else f"list {entry.taken}"
        return f"has {holds}, not {present}" + (f": {entry.refusal}" if entry.refusal else "")

    def _status(self, entry: _Entry) -> BackendStatus:
        backend = entry.instance.backend
        return BackendStatus(
            id=entry.instance.id,
            name=entry.instance.name,
            ip=backend.ip if backend else "",
            port=backend.port if backend else 0,
            weight=backend.weight if backend else 0,
            state=entry.state or State.PROBING,
            reason=entry.reason,
            since=entry.since,
            published_generation=entry.taken or 0,
            last_check=entry.last_check,
        )


def _course(entry: _Entry) -> Course:
    backend = entry.instance.backend
    if backend is None:
        raise ValueError(f"{entry.instance.name} is no backend")
    return Course(backend, entry.course)


def _moved(before: Backend | None, after: Backend | None) -> bool:
    """Whether it is another server now. A new name or weight does not make it one."""
    if before == after:
        return False
    if before is None or after is None:
        return True
    return replace(before, name="", weight=0) != replace(after, name="", weight=0)
