"""What the admin port shows of the stack, put together from those who own the parts."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lbctl.admin.documents import (
    backend_document,
    history_document,
    process_document,
    rate_document,
    rollout_document,
)
from lbctl.admin.rates import IDLE, RateWindow
from lbctl.admin.series import Series
from lbctl.core.iplist import timestamp
from lbctl.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl.admin.api import Facts
    from lbctl.model import BackendStatus, ControlStats
    from lbctl.ports import Fleet, Scaler, Traffic


class Overview:
    """Owns what was measured: the window of the rates, and the series of the last minutes. It is
    fed by `sample`, once a second. `facts` is asked each time: addresses may be known later.
    """

    def __init__(
        self,
        fleet: Fleet,
        traffic: Traffic,
        scaler: Scaler,
        stats: ControlStats,
        facts: Callable[[], Facts],
    ) -> None:
        self._fleet = fleet
        self._traffic = traffic
        self._scaler = scaler
        self._stats = stats
        self._facts = facts
        self._window = RateWindow()
        self.series = Series()

    def sample(self) -> None:
        now_s, totals = time.monotonic(), self._traffic.totals()
        self.series.add(rate_document(self._window.overall(now_s, totals)))
        self._window.observe(now_s, totals)

    def rows(self, backends: Sequence[BackendStatus]) -> list[dict[str, Any]]:
        """One document a backend, in the same order."""
        totals = self._traffic.totals()
        rates = self._window.rates(time.monotonic(), totals)
        in_flight = {id_: traffic.in_flight for id_, traffic in totals.backends.items()}
        return [
            backend_document(status, in_flight.get(status.id, 0), rates.get(status.id, IDLE))
            for status in backends
        ]

    def view(self) -> dict[str, Any]:
        """The present, as core.changes compares it."""
        backends = self._fleet.backends()
        rows = self.rows(backends)
        return {
            "summary": self._summary(backends, rows),
            "processes": [process_document(one) for one in self._traffic.processes()],
            "backends": rows,
        }

    def _summary(
        self, backends: Sequence[BackendStatus], rows: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        facts, membership, healing = self._facts(), self._fleet.membership(), self._scaler.healing
        return {
            "project": facts.project,
            "runtime": facts.runtime,
            "version": facts.version,
            "address": facts.address,
            "leader": facts.leader,
            "replicas": self._scaler.replicas,
            "generation": membership.generation,
            "updated_at": timestamp(membership.updated_at),
            "in_rotation": in_rotation(backends),
            "known": len(backends),
            "in_flight": sum(row["in_flight"] for row in rows),
            "rollout": rollout_document(self._scaler.rollout),
            "healing": {"state": healing.state.value, "message": healing.message},
            "history": history_document(self._stats.history),
            **self.series.present,
        }


def in_rotation(backends: Sequence[BackendStatus]) -> int:
    return sum(status.state is State.UP for status in backends)


def now() -> str:
    """As all times of the admin port are written."""
    return timestamp(datetime.now(UTC))
