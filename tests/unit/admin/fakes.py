"""What the admin port asks, with answers that a test sets."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lbctl.config import Config, settings_of
from lbctl.core.history import Event, Listed, Record, Span, record_of, to_ms
from lbctl.model import (
    DURATION_BUCKETS_S,
    Backend,
    BackendStatus,
    BackendTraffic,
    Cause,
    Certificate,
    ControlStats,
    EjectionStatus,
    HealingState,
    HealingStatus,
    Member,
    Membership,
    Process,
    Release,
    Rollout,
    Rotation,
    State,
    TrafficTotals,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

WHEN = datetime(2026, 11, 22, 10, 0, 0, 123_456, tzinfo=UTC)
BUCKETS = len(DURATION_BUCKETS_S) + 1


def backend_status(
    name: str,
    *,
    state: State = State.UP,
    reason: str = "",
    id_: str = "",
    published: int = 7,
    ejection: EjectionStatus | None = None,
) -> BackendStatus:
    """A row of the fleet; its id is the name's unless told."""
    return BackendStatus(
        id=id_ or f"id-{name}",
        name=name,
        ip="127.1.0.1",
        port=8080,
        weight=1,
        state=state,
        reason=reason,
        since=WHEN,
        published_generation=published,
        last_check="passed",
        cause=_CAUSES[state],
        checks_in_a_row=9 if state is State.UP else 3,
        checks_passed=state is State.UP,
        revision=1,
        ejection=ejection,
    )


_CAUSES = {
    State.INVALID: Cause.UNFIT,
    State.PROBING: Cause.UNPROVEN,
    State.ENROLLING: Cause.REFUSING,
    State.JOINING: Cause.SENDING,
    State.UP: Cause.WELL,
    State.DOWN: Cause.FAILING,
    State.EJECTED: Cause.ACCUSED,
    State.DRAINING: Cause.BY_HAND,
}


def traffic(
    name: str,
    *,
    ok: int = 0,
    in_flight: int = 0,
    buckets: Sequence[int] | None = None,
    retries: dict[str, int] | None = None,
) -> BackendTraffic:
    """Counters of a backend that answered `ok` requests with 2xx, all of them at once."""
    counts = tuple(buckets) if buckets is not None else (ok, *[0] * (BUCKETS - 1))
    return BackendTraffic(name, (0, ok, 0, 0, 0), counts, ok * 0.0002, in_flight, retries or {})


class FakeFleet:
    """Implements ports.Fleet."""

    def __init__(self, *rows: BackendStatus) -> None:
        self.rows = list(rows)
        self.generation = 7
        self.updated_at = WHEN

    def backends(self) -> list[BackendStatus]:
        return self.rows

    def membership(self) -> Membership:
        members = tuple(
            Member(Backend(row.id, row.name, row.ip), row.since)
            for row in self.rows
            if row.state is State.UP
        )
        return Membership(self.generation, self.updated_at, members)


class FakeTraffic:
    """Implements ports.Traffic."""

    def __init__(self, **backends: BackendTraffic) -> None:
        self.backends = {id_.replace("_", "-"): each for id_, each in backends.items()}
        self.refused: dict[str, int] = {}
        self.kept = 0
        self.lost_lines = 0
        self.connections = {"downstream": 0, "upstream": 0}
        self.shown: list[Certificate] = []
        self.running = [
            Process("supervisor", "supervisor", 1, 0, WHEN),
            Process("worker", "worker-1", 17, 2, WHEN),
        ]

    def totals(self) -> TrafficTotals:
        return TrafficTotals(
            dict(self.backends), dict(self.refused), dict(self.connections), {"worker-0": 4},
            lost_lines=self.lost_lines,
        )  # fmt: skip

    def keep(self) -> None:
        self.kept += 1

    def processes(self) -> list[Process]:
        return self.running

    def certificates(self) -> list[Certificate]:
        return self.shown


class FakeScaler:
    """Implements ports.Scaler: takes any wish, or raises what it is told to."""

    def __init__(self) -> None:
        self.replicas: int | None = None
        self.error: Exception | None = None
        self.rollout: Rollout | None = None
        self.healing = HealingStatus(HealingState.IDLE)
        self.by_hand: list[tuple[str, str]] = []  # (drain or undrain, id)

    async def scale(self, replicas: int) -> None:
        self._may_fail()
        self.replicas = replicas

    async def drain(self, backend_id: str) -> None:
        self._may_fail()
        self.by_hand.append(("drain", backend_id))

    async def undrain(self, backend_id: str) -> None:
        self._may_fail()
        self.by_hand.append(("undrain", backend_id))

    async def roll_out(self, image: str, batch: int) -> Rollout:
        self._may_fail()
        self.rollout = Rollout(Release(2, image), Release(), 3, batch, image)
        return self.rollout

    def _may_fail(self) -> None:
        if self.error is not None:
            raise self.error


class FakeReloader:
    """Implements ports.Reloader: takes any settings, or raises what it is told to."""

    def __init__(self) -> None:
        self.present = settings_of(Config())
        self.reloads: list[Mapping[str, Any] | None] = []
        self.error: Exception | None = None

    def settings(self) -> Mapping[str, Any]:
        return self.present

    async def reload(self, settings: Mapping[str, Any] | None) -> None:
        if self.error is not None:
            raise self.error
        self.reloads.append(settings)
        self.present |= settings or {}


class FakeRotator:
    """Implements ports.Rotator: exchanges nothing, or raises what it is told to."""

    def __init__(self) -> None:
        self.rotating = False
        self.changed_at: datetime | None = WHEN
        self.rotations = 0
        self.lagging: tuple[tuple[str, str], ...] = ()
        self.error: Exception | None = None

    async def rotate(self) -> Rotation:
        if self.error is not None:
            raise self.error
        self.rotations += 1
        self.changed_at = WHEN + timedelta(seconds=self.rotations)
        return Rotation(3 - len(self.lagging), self.lagging, 0.0123)


class FakeJournal:
    """Implements ports.Journal in memory: what is recorded is there at once. Its lists are those
    that a test puts into `listed`.
    """

    def __init__(self) -> None:
        self.kept: list[Record] = []
        self.listed: list[Listed] = []
        self.wakers: set[Callable[[], None]] = set()
        self.error: Exception | None = None
        self.asked: list[Span] = []
        self.settlings = 0

    def record(self, event: Event) -> None:
        self.kept.append(record_of(event, self.last + 1, to_ms(WHEN)))
        for wake in list(self.wakers):
            wake()

    async def settled(self, within_s: float) -> None:  # noqa: ARG002
        self.settlings += 1

    @contextlib.contextmanager
    def listening(self, wake: Callable[[], None]) -> Iterator[None]:
        self.wakers.add(wake)
        try:
            yield
        finally:
            self.wakers.discard(wake)

    @property
    def last(self) -> int:
        return self.kept[-1].seq if self.kept else 0

    async def after(self, seq: int, limit: int) -> Sequence[Record]:
        self._may_fail()
        return [record for record in self.kept if record.seq > seq][:limit]

    async def records(self, span: Span) -> Sequence[Record]:
        self._may_fail()
        self.asked.append(span)
        found = [record for record in self.kept if span.has(record)]
        return found[: span.limit] if span.oldest else found[-span.limit :]

    async def lists(self, span: Span) -> Sequence[Listed]:
        self._may_fail()
        self.asked.append(span)
        found = [one for one in self.listed if span.has(one.record)]
        return found[: span.limit] if span.oldest else found[-span.limit :]

    async def list_at(self, moment: datetime) -> Listed | None:
        self._may_fail()
        known = [one for one in self.listed if one.record.at_ms <= to_ms(moment)]
        return known[-1] if known else None

    def _may_fail(self) -> None:
        if self.error is not None:
            raise self.error


def synced_stats() -> ControlStats:
    """Counters of a control plane that has looked at its runtime."""
    return ControlStats(discovery_synced_monotonic_s=100.0)
