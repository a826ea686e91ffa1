"""What the admin port asks, with answers that a test sets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lbctl.model import (
    DURATION_BUCKETS_S,
    Backend,
    BackendStatus,
    BackendTraffic,
    ControlStats,
    Member,
    Membership,
    Process,
    State,
    TrafficTotals,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

WHEN = datetime(2026, 11, 22, 10, 0, 0, 123_456, tzinfo=UTC)
BUCKETS = len(DURATION_BUCKETS_S) + 1


def backend_status(
    name: str, *, state: State = State.UP, reason: str = "", id_: str = "", published: int = 7
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
    )


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

    def backends(self) -> list[BackendStatus]:
        return self.rows

    def membership(self) -> Membership:
        members = tuple(
            Member(Backend(row.id, row.name, row.ip), row.since)
            for row in self.rows
            if row.state is State.UP
        )
        return Membership(self.generation, WHEN, members)


class FakeTraffic:
    """Implements ports.Traffic."""

    def __init__(self, **backends: BackendTraffic) -> None:
        self.backends = {id_.replace("_", "-"): each for id_, each in backends.items()}
        self.refused: dict[str, int] = {}
        self.connections = {"downstream": 0, "upstream": 0}
        self.running = [
            Process("supervisor", "supervisor", 1, 0, WHEN),
            Process("worker", "worker-1", 17, 2, WHEN),
        ]

    def totals(self) -> TrafficTotals:
        return TrafficTotals(
            dict(self.backends), dict(self.refused), dict(self.connections), {"worker-0": 4}
        )

    def processes(self) -> list[Process]:
        return self.running


class FakeScaler:
    """Implements ports.Scaler: takes any wish, or raises what it is told to."""

    def __init__(self) -> None:
        self.replicas: int | None = None
        self.error: Exception | None = None

    async def scale(self, replicas: int) -> None:
        if self.error is not None:
            raise self.error
        self.replicas = replicas


def synced_stats() -> ControlStats:
    """Counters of a control plane that has looked at its runtime."""
    return ControlStats(discovery_synced_monotonic_s=100.0)
