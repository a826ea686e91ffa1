"""Which backends to start and which to stop: to have as many as wished, and to replace them
all by those of another release.

Both plans are made from what is there now, never from what was done before. So whoever comes
after an interruption makes the plan anew and goes on from where things stand.
"""

from __future__ import annotations

import re
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
    drained: Collection[str] = (),
) -> Plan:
    """`statuses` is by id and may lag behind `instances`; `drained` are ids, taken out by hand.

    What counts towards the wish: every instance that runs, in rotation or on its way, whoever
    started it. One that is paused, fails its checks or was drained by hand counts too, as it
    may come back.

    What does not: one that leaves; a stranger that cannot be a backend; whatever has exited. Of
    the exited, our own are cleared away, strangers are not touched.

    To go are first those not in rotation, then the newest: the oldest have proven themselves. Of
    those that came together, the one of the highest number goes first.
    """
    present = [
        i for i in instances if counts(i) and (i.id in drained or not _leaves(statuses.get(i.id)))
    ]
    clear = tuple(i.id for i in instances if i.phase is Phase.EXITED and i.revision)
    surplus = len(present) - replicas
    return Plan(
        start=max(0, -surplus),
        stop=_least_first(present, statuses)[: max(0, surplus)],
        clear=clear,
    )


@dataclass(frozen=True, slots=True)
class Exchange:
    """The next step of a rollout: at most one of `start` and `stop` is not empty, and while
    `waiting` is not, nothing is started. With none of the three it is done.

    `ready` is how many of the release are in rotation.
    """

    start: int
    stop: tuple[str, ...]
    waiting: tuple[str, ...]
    ready: int


def exchange(
    revision: int,
    total: int,
    batch: int,
    instances: Collection[Instance],
    statuses: Mapping[str, BackendStatus],
    drained: Collection[str] = (),
) -> Exchange:
    """What brings our own backends to `total` ones of `revision`, `batch` at a time.

    Start-first: for each that is in rotation (or was drained by hand, which is somebody's will)
    one of another revision may go, those that serve nobody before the others. Going back is
    the same with the revision of before. Strangers are not touched.

    A status of DRAINING says nothing here: one that exits again and again has it between two of
    its starts, and would be forgotten in that moment.
    """
    own = [i for i in instances if i.revision and i.phase is not Phase.STOPPING]
    theirs = [i for i in own if i.revision == revision]
    others = [i for i in own if i.revision != revision]
    ready = [i for i in theirs if in_rotation(statuses.get(i.id)) or i.id in drained]
    waiting = [i for i in theirs if i not in ready]
    stop = (
        *_least_first(others, statuses)[: max(0, len(others) - max(0, total - len(ready)))],
        *_least_first(theirs, statuses)[: max(0, len(theirs) - total)],
    )
    free = 0 if stop or waiting else max(0, total - len(theirs))
    return Exchange(
        start=min(batch, free),
        stop=stop,
        waiting=tuple(i.id for i in waiting if i.id not in stop),
        ready=min(len(ready), total),
    )


def to_replace(
    replicas: int | None, instances: Collection[Instance], statuses: Mapping[str, BackendStatus]
) -> int:
    """How many backends of ours a rollout ends with: as many as there are, or as many as are
    wanted beside the strangers, if that is more.
    """
    own = sum(bool(i.revision) and i.phase is not Phase.STOPPING for i in instances)
    strangers = sum(
        not i.revision and counts(i) and not _leaves(statuses.get(i.id)) for i in instances
    )
    return max(own, (replicas or 0) - strangers)


def failed_start(
    instance: Instance,
    status: BackendStatus | None,
    waited_s: float,
    rollout_timeout_s: float,
    exited: str = "",
) -> str:
    """Why this newcomer of a rollout is not waited for any longer; empty while it is.

    One that has exited may be started again by its runtime, but one that keeps doing so need
    not be watched for the whole time. `exited` is how it ended at most EXITED_S ago, if it did:
    when time is up it may be in one of its short lives.
    """
    why = status.reason if status is not None else instance.problem or "it was not seen running"
    if instance.phase is Phase.EXITED and waited_s >= min(EXITED_S, rollout_timeout_s):
        return f"does not stay up: {instance.problem or why}"
    if waited_s >= rollout_timeout_s and exited:
        return f"does not stay up: {exited}"
    if waited_s >= rollout_timeout_s:
        return f"did not come into rotation within {rollout_timeout_s:g} s: {why}"
    return ""


EXITED_S = 5.0
"""After so long a container that exits at once is found between two of its starts."""


def in_rotation(status: BackendStatus | None) -> bool:
    """Whether it is listed, holds that list, and gets requests."""
    return status is not None and status.state is State.UP


def counts(instance: Instance) -> bool:
    """Whether it runs, and is or may become one of the wanted number."""
    if instance.phase in (Phase.EXITED, Phase.STOPPING):
        return False
    return instance.backend is not None or bool(instance.revision)


def _leaves(status: BackendStatus | None) -> bool:
    return status is not None and status.state is State.DRAINING


def _least_first(
    instances: Collection[Instance], statuses: Mapping[str, BackendStatus]
) -> tuple[str, ...]:
    """Ids in order of how much there is to lose: least first. What came in the same second came
    together.
    """

    def worth(instance: Instance) -> tuple[bool, int, int, str]:
        status = statuses.get(instance.id)
        serves = status is not None and in_rotation(status)
        second = int(status.since.timestamp()) if status is not None and serves else 0
        return serves, -second, -_number(instance.name), instance.id

    return tuple(i.id for i in sorted(instances, key=worth))


def _number(name: str) -> int:
    """7 of backend-7; of a name without one 0."""
    digits = re.search(r"[0-9]{1,9}$", name)
    return int(digits[0]) if digits else 0
