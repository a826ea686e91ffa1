"""Who is in rotation: one pure reducer from facts to a decision.

Facts come in through `observe`, `presume`, `probed`, `failing`, `list_taken`, `list_refused`,
`drain` and `undrain`; `step` says what follows from all of them together. Nothing else changes a
membership.

The way in. A backend that runs and passes its checks is a *target*: it is sent the present
list, in rotation or not. Once it has taken one, it may enter; those that may enter within a
moment enter together, in one new generation. It then is in the list (JOINING), and is routed
(UP) as soon as it has taken a list that names it. So nobody gets a client before it holds the
right list, and one that cannot be written to never enters, nor makes the list flap.

The way out has no waiting: in the step after the fact, a backend that stopped running, fell,
is ejected or drained is neither routed nor listed.

Nobody is left: where no backend is both fit and routed, all that still run, have ever passed a
check, and are barred by their health alone are let in all the same (fail open). Those that were
routed simply stay, so routes and lists do not change while all fall; those that went out before
come in like everybody else, list first. They go out again in the step after one that is fit is
routed, so a newcomer that is still JOINING never leaves the routes empty.

Theory of restarts: a backend that ran, did not, and runs again is a new one, as is one that
came back on another address: it starts a new *course*, has passed no check and holds no list.
A restored membership is believed as far as the first observation bears it out; while there is
none, as far as checks do (`presume`). Ejections are not restored: whoever was ejected is no
member, so it comes in like a newcomer, and if requests still fail on it the workers, which outlive
a controller, say so again after one more row.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from lbctl.core.ejection import Ejection, Terms, Verdict
from lbctl.core.health import Health, Standing, Thresholds
from lbctl.core.iplist import address_key
from lbctl.model import (
    Backend,
    BackendStatus,
    Cause,
    EjectionStatus,
    EngineHealth,
    Failure,
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
    (monotonic seconds; None: never) a step is due even if no fact comes in. `ejections` went out
    just now, by name; `fail_open` says that backends are served though none is fit.
    """

    snapshot: Snapshot
    membership: Membership
    checks: Mapping[str, Course]
    targets: Mapping[str, Course]
    transitions: tuple[Transition, ...]
    ejections: tuple[tuple[str, Failure], ...]
    fail_open: bool
    wake_at: float | None


@dataclass(frozen=True, slots=True)
class _Bar:
    """Why one may not be in rotation. `health`: it still runs, and may serve if nobody is fit."""

    state: State
    cause: Cause
    reason: str
    health: bool = False


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
    cause: Cause = Cause.UNCHECKED
    reason: str = ""
    last_check: str = ""
    ejection: Ejection = field(default_factory=Ejection)
    open: str = ""  # why it should be out, while it serves because nobody is fit
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
        self,
        thresholds: Thresholds,
        debounce: Debounce,
        at: datetime,
        saved: Saved | None = None,
        terms: Terms | None = None,
    ) -> None:
        self._thresholds = thresholds
        self._debounce = debounce
        self._terms = terms or Terms(rise=thresholds.rise)
        self._accused: dict[str, Failure] = {}  # since the last step, in order of arrival
        self._entries: dict[str, _Entry] = {}
        self._drained: dict[str, _Bar] = {}
        self._gone: list[Transition] = []
        self._courses = 0
        self._observed = False
        self._presumed = False
        self._decided = False
        self._dirty = False
        self._candidates: frozenset[str] = frozenset()
        self._first_candidate_at = 0.0
        self._last_candidate_at = 0.0
        self._admit_at: float | None = None
        self._wake_at: float | None = None
        self._stepped = 0.0, at  # the last step, on both clocks
        self.membership = saved.membership if saved else Membership(0, at, ())
        revision = saved.revision if saved else 0
        self.snapshot = Snapshot(revision, self.membership.generation, ())

    # Facts

    @property
    def observed(self) -> bool:
        """Whether a complete list was ever seen."""
        return self._observed

    @property
    def decides(self) -> bool:
        """Whether anything is: after the first complete list, or what is presumed without one."""
        return self._observed or self._presumed

    def observe(self, instances: Iterable[Instance], at: datetime) -> None:
        """The complete list of the runtime. Whoever is not in it is gone."""
        present = {instance.id: instance for instance in instances}
        for gone in self._entries.keys() - present.keys():
            self._forget(gone)
        restored = {} if self.decides else {m.backend.id: m for m in self.membership.members}
        if not self._observed:
            self._confirm()
        for instance in sorted(present.values(), key=lambda instance: instance.id):
            entry = self._entries.get(instance.id)
            if entry is None:
                self._entries[instance.id] = self._new(instance, restored.get(instance.id), at)
            else:
                self._meet(entry, instance)
        self._observed = True
        self._dirty = True

    def presume(self, at: datetime) -> None:
        """Nobody tells what runs: until `observe`, take the members of the saved list to, with a
        check for each, rather than decide nothing.
        """
        if self.decides:
            return
        self._presumed = True
        self._dirty = bool(self.membership.members)
        for member in self.membership.members:
            backend = member.backend
            instance = Instance(backend.id, backend.name, Phase.RUNNING, backend)
            self._entries[backend.id] = self._new(instance, member, at)

    def _confirm(self) -> None:
        """What checks found of those that were only presumed to run counts for little: they may not
        have run then, and run now. Who is served stays, who is not is new.
        """
        for entry in self._entries.values():
            if entry.listing is not None:
                entry.health = Health(Standing.HEALTHY)
            elif not entry.health.fit:
                self._begin_anew(entry)

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
        entry.ejection = entry.ejection.checked(result.passed)
        healed = entry.ejection.healed(self._terms)
        if news or healed or (result.error and result.error != said):
            self._dirty = True

    def failing(self, backend_id: str, cause: Failure) -> None:
        """A worker saw a row of live requests fail on this one."""
        if backend_id in self._entries:
            self._accused[backend_id] = cause
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

    def drain(self, backend_id: str, reason: str, cause: Cause = Cause.BY_HAND) -> None:
        """Take it out until `undrain`; also one not seen yet."""
        self._drained[backend_id] = _Bar(State.DRAINING, cause, reason)
        self._dirty = True

    def undrain(self, backend_id: str) -> None:
        """Let it in again."""
        if self._drained.pop(backend_id, None) is not None:
            self._dirty = True

    # What follows

    def step(self, now: float, at: datetime) -> Decision | None:
        """What is to be done; None while nothing is known, or nothing changed."""
        due = self._wake_at is not None and now >= self._wake_at
        if not self.decides or not (self._dirty or due):
            return None
        self._dirty = False
        self._stepped = now, at
        self._settle_claims()
        bars = self._bars(now)
        ejections = self._eject(bars, now)
        self._fail_open(bars)
        for backend_id in bars:
            self._entries[backend_id].listing = None
        for entry in self._entries.values():
            if not self._is_target(entry):
                entry.taken, entry.refusal = None, ""
        self._commit(self._admit(bars, now), at)
        self._route()
        # Those that serve in its place go out as soon as one that is fit is in.
        opened = [entry for entry in self._entries.values() if entry.open]
        self._dirty = bool(opened) and any(e.routed and not e.open for e in self._entries.values())
        self._wake_at = now if self._dirty else self._next_due()
        transitions = self._settle(bars, at)
        return Decision(
            snapshot=self.snapshot,
            membership=self.membership,
            checks={e.instance.id: _course(e) for e in self._entries.values() if self._runs(e)},
            targets={
                e.instance.id: _course(e) for e in self._entries.values() if self._is_target(e)
            },
            transitions=transitions,
            ejections=ejections,
            fail_open=any(entry.routed for entry in opened),
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
            self._begin_anew(entry)

    def _begin_anew(self, entry: _Entry) -> None:
        entry.course = self._next_course()
        entry.health = Health()
        entry.ejection = Ejection()
        entry.last_check = entry.refusal = entry.open = ""
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
        serves = entry.health.fit or bool(entry.open)
        return self._runs(entry) and serves and backend is not None and backend.publish

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

    def _bars(self, now: float) -> dict[str, _Bar]:
        """Those that may not be in rotation, by id; ejections that are over are lifted."""
        for entry in self._entries.values():
            entry.ejection = entry.ejection.at(self._terms, now)
        return {
            backend_id: bar
            for backend_id, entry in self._entries.items()
            if (bar := self._bar(entry)) is not None
        }

    def _bar(self, entry: _Entry) -> _Bar | None:
        instance, health = entry.instance, entry.health
        if instance.phase is Phase.EXITED:
            return _Bar(State.DOWN, Cause.EXITED, instance.problem or "it has exited")
        if instance.phase is Phase.STOPPING:
            return _Bar(State.DRAINING, Cause.STOPPING, "it was told to stop")
        if instance.backend is None:
            return _Bar(State.INVALID, Cause.UNFIT, instance.problem)
        if instance.phase is Phase.PAUSED:
            return _Bar(State.DOWN, Cause.PAUSED, "it is paused")
        if entry.displaced_by:
            why = f"{instance.backend.ip} belongs to {entry.displaced_by} now"
            return _Bar(State.INVALID, Cause.DISPLACED, why)
        if instance.id in self._drained:
            return self._drained[instance.id]
        once = health.standing is not Standing.NEW
        if instance.health is EngineHealth.UNHEALTHY:
            why = "its Docker HEALTHCHECK says unhealthy"
            return _Bar(State.DOWN, Cause.UNHEALTHY, why, health=once)
        if not once and not entry.last_check:
            return _Bar(State.PROBING, Cause.UNCHECKED, "not checked yet")
        if not once:
            return _Bar(State.PROBING, Cause.UNPROVEN, f"its check failed: {entry.last_check}")
        if health.standing is Standing.DOWN:
            why = f"its checks fail: {entry.last_check}"
            return _Bar(State.DOWN, Cause.FAILING, why, health=True)
        if health.standing is Standing.RISING:
            why = f"passed {health.streak} of {self._thresholds.rise} checks"
            return _Bar(State.DOWN, Cause.RISING, why, health=True)
        if entry.ejection.verdict is Verdict.OUT:
            why = f"ejected for {entry.ejection.lasts_s:g} s: {self._accusation(entry)}"
            return _Bar(State.EJECTED, Cause.ACCUSED, why, health=True)
        return None

    def _accusation(self, entry: _Entry) -> str:
        failures, cause = self._terms.failures, entry.ejection.cause.value
        return f"{failures} requests in a row failed ({cause})"

    def _eject(self, bars: dict[str, _Bar], now: float) -> tuple[tuple[str, Failure], ...]:
        """Judge the accused, one after the other; those that go are added to `bars`.

        Only who is served by clients can be accused: what is still told of one that went out
        before is old. Those left must be a part of all that could serve if they were well.
        """
        accused, self._accused = self._accused, {}
        if not accused:
            return ()
        serving = {i for i, e in self._entries.items() if e.routed and i not in bars}
        known = sum(self._is_known(entry) for entry in self._entries.values())
        ejected = []
        for backend_id, cause in accused.items():
            if backend_id not in serving:
                continue
            entry = self._entries[backend_id]
            allowed = self._terms.allows(len(serving) - 1, known)
            entry.ejection = entry.ejection.failing(cause, self._terms, now, allowed=allowed)
            if (bar := self._bar(entry)) is not None:
                serving.remove(backend_id)
                bars[backend_id] = bar
                ejected.append((entry.instance.name, cause))
        return tuple(ejected)

    def _is_known(self, entry: _Entry) -> bool:
        """Whether it runs, is wanted, and was ever healthy."""
        wanted = self._runs(entry) and entry.instance.id not in self._drained
        return wanted and entry.health.standing is not Standing.NEW

    def _fail_open(self, bars: dict[str, _Bar]) -> None:
        """If nobody fit is routed, take those out of `bars` whom only their health bars."""
        fit = any(entry.routed and i not in bars for i, entry in self._entries.items())
        for backend_id, entry in self._entries.items():
            bar = bars.get(backend_id)
            entry.open = ""
            if not fit and bar is not None and bar.health:
                entry.open = bar.reason
                del bars[backend_id]

    def _next_due(self) -> float | None:
        """When a step is due though no fact comes in."""
        due = [
            entry.ejection.ends_s
            for entry in self._entries.values()
            if entry.ejection.verdict is not Verdict.IN
        ]
        if self._admit_at is not None:
            due.append(self._admit_at)
        return min(due, default=None)

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
            self._candidates, self._admit_at = frozenset(), None
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
            self._candidates, self._admit_at = frozenset(), None
            return list(candidates.values())
        self._candidates, self._admit_at = frozenset(candidates), due
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

    def _settle(self, bars: Mapping[str, _Bar], at: datetime) -> tuple[Transition, ...]:
        """Write down where everyone stands now; returns what changed."""
        transitions, self._gone = self._gone, []
        for backend_id, entry in self._entries.items():
            before = entry.state
            bar = bars.get(backend_id)
            place = self._place(entry) if bar is None else (bar.state, bar.cause, bar.reason)
            entry.state, entry.cause, entry.reason = place
            if entry.state is not before:
                stayed = entry.listing if before is None and entry.routed else None
                entry.since = stayed.since if stayed else at  # under the last controller already
                transitions.append(
                    Transition(backend_id, entry.instance.name, before, entry.state, entry.reason)
                )
        return tuple(transitions)

    def _place(self, entry: _Entry) -> tuple[State, Cause, str]:
        """The state of one that nothing bars."""
        if entry.listing is None:
            if entry.refusal:
                why = f"it does not take the list: {entry.refusal}"
                return State.ENROLLING, Cause.REFUSING, why
            if entry.taken is None and self._is_target(entry):
                return State.ENROLLING, Cause.SENDING, "it is being sent the list"
            return State.ENROLLING, Cause.ENTERING, "it enters with the next list"
        if not entry.listing.routed:
            return State.JOINING, Cause.SENDING, "it is being sent the list that names it"
        if entry.open:
            why = f"served because no backend is fit; {entry.open}"
            return State.UP, Cause.OPEN, why
        if entry.ejection.verdict is Verdict.SPARED:
            why = f"{self._accusation(entry)}; it stays, too few would be left"
            return State.UP, Cause.SPARED, why
        if entry.health.standing is Standing.FALLING:
            failed = f"failed {entry.health.streak} of {self._thresholds.fall} checks"
            return State.UP, Cause.FALLING, f"{failed}: {entry.last_check}"
        if entry.refusal and (lag := self._lag(entry)):
            return State.UP, Cause.LAGGING, lag
        return State.UP, Cause.WELL, ""

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
            cause=entry.cause,
            checks_in_a_row=entry.health.streak,
            checks_passed=entry.health.passing,
            publish=backend is None or backend.publish,
            revision=entry.instance.revision,
            ejection=self._ejection(entry.ejection),
        )

    def _ejection(self, ejection: Ejection) -> EjectionStatus | None:
        if ejection.verdict is Verdict.IN:
            return None
        now, at = self._stepped
        return EjectionStatus(
            failure=ejection.cause,
            ends_at=at + timedelta(seconds=ejection.ends_s - now),
            lasts_s=ejection.lasts_s,
            times=ejection.times,
            passes=ejection.passes,
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
