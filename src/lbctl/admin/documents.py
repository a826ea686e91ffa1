"""What the admin port tells: JSON documents, whose schemas are in openapi.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lbctl.core.history import from_ms
from lbctl.core.iplist import timestamp

if TYPE_CHECKING:
    from lbctl.admin.rates import Rate
    from lbctl.core.history import Listed
    from lbctl.model import (
        BackendStatus,
        EjectionStatus,
        HistoryStatus,
        Process,
        Rollout,
        Rotation,
    )


def rollout_document(rollout: Rollout | None) -> dict[str, Any] | None:
    if rollout is None:
        return None
    return {
        "revision": rollout.release.revision,
        "image": rollout.asked,
        "state": rollout.state.value,
        "replaced": rollout.replaced,
        "total": rollout.total,
        "message": rollout.message,
    }


def process_document(process: Process) -> dict[str, Any]:
    return {
        "lb": process.lb,
        "role": process.role,
        "name": process.name,
        "pid": process.pid,
        "restarts": process.restarts,
        "started_at": timestamp(process.started_at),
    }


def backend_document(status: BackendStatus, in_flight: int, rate: Rate) -> dict[str, Any]:
    return {
        "id": status.id,
        "name": status.name,
        "ip": status.ip,
        "port": status.port,
        "weight": status.weight,
        "state": status.state.value,
        "reason": status.reason,
        "since": timestamp(status.since),
        "in_flight": in_flight,
        **rate_document(rate),
        "published_generation": status.published_generation,
        "last_check": status.last_check,
        "cause": status.cause.value,
        "checks": {"passed": status.checks_passed, "in_a_row": status.checks_in_a_row},
        "publish": status.publish,
        "revision": status.revision,
        "ejection": _ejection_document(status.ejection),
    }


def _ejection_document(ejection: EjectionStatus | None) -> dict[str, Any] | None:
    if ejection is None:
        return None
    return {
        "failure": ejection.failure.value,
        "ends_at": timestamp(ejection.ends_at),
        "lasts_s": ejection.lasts_s,
        "times": ejection.times,
        "passes": ejection.passes,
    }


def rate_document(rate: Rate) -> dict[str, Any]:
    """What was measured over the last seconds; null where nothing was answered in them."""
    return {
        "requests_per_second": round(rate.requests_per_second, 1),
        "error_ratio": None if rate.error_ratio is None else round(rate.error_ratio, 5),
        "p50_ms": _ms(rate.p50_s),
        "p99_ms": _ms(rate.p99_s),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def history_document(status: HistoryStatus) -> dict[str, Any]:
    return {
        "state": status.state.value,
        "message": status.message,
        "lost": status.lost,
        "events": status.events,
    }


def listed_document(listed: Listed) -> dict[str, Any]:
    record = listed.record
    data = json.loads(record.data)
    return {
        "seq": record.seq,
        "generation": record.generation,
        "at": timestamp(from_ms(record.at_ms)),
        "reason": record.text,
        "joined": [one["name"] for one in data["joined"]],
        "left": [one["name"] for one in data["left"]],
        "members": list(listed.members),
    }


def rotation_document(rotation: Rotation) -> dict[str, Any]:
    return {
        "backends": rotation.backends,
        "lagging": [{"name": name, "reason": reason} for name, reason in rotation.lagging],
        "spread_ms": round(rotation.spread_s * 1000, 1),
    }
