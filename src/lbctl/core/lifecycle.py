"""Which backends to start and which to stop, to have as many as wished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbctl.model import Phase, State

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from lbctl.model import BackendStatus, Instance


@dataclass(frozen=True, slots=True)
class Plan:
    """What takes the present backends to the wish. `stop` leaves gracefully, in this order;
    `clear` is dead already and only in the way.
    """

    start: int
    stop: tuple[str, ...]
    clear: tuple[str, ...]


def plan(
    replicas: int,
    instances: Collection[Instance],
    statuses: Mapping[str, BackendStatus],
    own: Collection[str],
) -> Plan:
    """`statuses` is by id and may lag behind `instances`; `own` are ids that a scaler started.

    What counts towards the wish: every instance that runs, in rotation or on its way, whoever
    started it. One that is paused or fails its checks counts too, as it may come back.

    What does not: one that leaves, or was drained by hand; a stranger that cannot be a backend;
    whatever has exited. Of the exited, our own are cleared away, strangers are not touched.

    To go are first those not in rotation, then the newest: the oldest have proven themselves.
    """
    present = [i for i in instances if _counts(i, statuses.get(i.id), own)]
    clear = tuple(i.id for i in instances if i.phase is Phase.EXITED and i.id in own)
    surplus = len(present) - replicas
    ordered = sorted(present, key=lambda i: (_keep(statuses.get(i.id)), i.id))
    return Plan(
        start=max(0, -surplus),
        stop=tuple(i.id for i in ordered[: max(0, surplus)]),
        clear=clear,
    )


def _counts(instance: Instance, status: BackendStatus | None, own: Collection[str]) -> bool:
    if instance.phase in (Phase.EXITED, Phase.STOPPING):
        return False
    if status is not None and status.state is State.DRAINING:
        return False
    return instance.backend is not None or instance.id in own


def _keep(status: BackendStatus | None) -> tuple[bool, float]:
    """Orders by how much there is to lose: least first."""
    if status is None or status.state is not State.UP:
        return False, 0.0
    return True, -status.since.timestamp()
