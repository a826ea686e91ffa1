"""The status document as verify reads it: only what it needs, and what of it is wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lbctl.core.text import printable
from lbctl.errors import OperationError
from lbctl.model import State
from lbctl.verify.answers import list_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

WORKER, CONTROLLER, SUPERVISOR = "worker", "controller", "supervisor"


@dataclass(frozen=True, slots=True)
class Seat:
    """A known backend."""

    id: str
    name: str
    ip: str
    port: int
    state: str
    reason: str
    published_generation: int

    @property
    def up(self) -> bool:
        return self.state == State.UP.value


@dataclass(frozen=True, slots=True)
class Process:
    """A process of an lb; `lb` is "" where there is only one lb. A pid comes back in the
    container that takes another's place, so it is not all of an identity.
    """

    role: str
    name: str
    pid: int
    lb: str
    started_at: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The last rollout."""

    revision: int
    state: str
    message: str

    @property
    def under_way(self) -> bool:
        return self.state in ("running", "rolling back")


@dataclass(frozen=True, slots=True)
class View:
    """The stack at one moment."""

    generation: int
    replicas: int | None
    backends: tuple[Seat, ...]
    processes: tuple[Process, ...]
    leader: str
    rollout: Rollout | None
    settings: Mapping[str, Any]

    @property
    def rotation(self) -> tuple[Seat, ...]:
        return tuple(seat for seat in self.backends if seat.up)

    @property
    def expected_list(self) -> bytes:
        """What every list should say now."""
        return list_of(seat.ip for seat in self.rotation)

    @property
    def names(self) -> dict[str, str]:
        """Of the known backends, by address."""
        return {seat.ip: seat.name for seat in self.backends if seat.ip}

    def of_role(self, role: str) -> tuple[Process, ...]:
        return tuple(process for process in self.processes if process.role == role)

    @property
    def lbs(self) -> tuple[str, ...]:
        """The names of the lbs."""
        return tuple(sorted({process.lb for process in self.processes}))


def parse_view(text: str) -> View:
    """Read the status document. Raises OperationError for anything else."""
    try:
        document = json.loads(text)
        return View(
            generation=int(document["generation"]),
            replicas=document["replicas"],
            backends=tuple(_seat(row) for row in document["backends"]),
            processes=tuple(
                Process(
                    str(row["role"]),
                    str(row["name"]),
                    int(row["pid"]),
                    str(row["lb"]),
                    str(row["started_at"]),
                )
                for row in document["processes"]
            ),
            leader=str(document["leader"]),
            rollout=_rollout(document["rollout"]),
            settings=dict(document["settings"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OperationError("the admin port's status is not one that this lbctl reads") from None


def _seat(row: Mapping[str, Any]) -> Seat:
    return Seat(
        id=str(row["id"]),
        name=printable(str(row["name"])),
        ip=str(row["ip"]),
        port=int(row["port"]),
        state=str(row["state"]),
        reason=printable(str(row["reason"])),
        published_generation=int(row["published_generation"]),
    )


def _rollout(row: Mapping[str, Any] | None) -> Rollout | None:
    if row is None:
        return None
    return Rollout(int(row["revision"]), str(row["state"]), printable(str(row["message"])))


def trouble(view: View) -> str:
    """What is wrong with a stack before anybody disturbs it, in words; "" if nothing is."""
    out = [seat for seat in view.backends if not seat.up]
    if out:
        seats = ", ".join(f"{seat.name} is {seat.state} ({seat.reason})" for seat in out[:3])
        return f"{len(out)} of {len(view.backends)} backends are out of rotation: {seats}"
    if view.replicas is not None and len(view.rotation) != view.replicas:
        return f"{len(view.rotation)} of {view.replicas} wanted backends are in rotation"
    if len(view.rotation) < 2:
        return f"{len(view.rotation)} in rotation: with fewer than 2 backends, none can be missed"
    if view.rollout is not None and view.rollout.under_way:
        return "a rollout is under way"
    for role in (WORKER, CONTROLLER):
        if not view.of_role(role):
            return f"no {role} runs"
    return ""


def retries_of(metrics: str) -> int:
    """The sum of `lbctl_retries_total` in Prometheus' text format."""
    return _sum_of(metrics, "lbctl_retries_total")


def clients_of(metrics: str, workers: Iterable[Process]) -> int:
    """The connections that these workers have open, in the same format."""
    return sum(
        _sum_of(metrics, f'lbctl_worker_connections{{worker="{worker.name}"}}')
        for worker in workers
    )


def _sum_of(metrics: str, series: str) -> int:
    samples = (line for line in metrics.splitlines() if line.startswith(series))
    return round(sum(float(line.rpartition(" ")[2]) for line in samples))
