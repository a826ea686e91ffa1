"""The nouns of lbctl: frozen values that pass between the layers.

Times called `..._at` or `since` are aware UTC datetimes, for people; everything that is
measured or compared runs on monotonic seconds (float) and says so in its name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

LABEL_ROLE = "lbctl.role"
LABEL_PROJECT = "lbctl.project"
LABEL_LB = "lbctl.lb"
LABEL_PORT = "lbctl.port"
LABEL_ADMIN_PORT = "lbctl.admin-port"
LABEL_PROBE = "lbctl.probe"
LABEL_WEIGHT = "lbctl.weight"
LABEL_PUBLISH = "lbctl.publish"
LABEL_REVISION = "lbctl.revision"


@dataclass(frozen=True, slots=True)
class Backend:
    """One nginx that can be balanced: who it is and where it listens.

    `id` is the runtime's and never reused; `name` is for people; `ip` is a dotted IPv4.
    """

    id: str
    name: str
    ip: str
    port: int = 8080
    admin_port: int = 9000
    weight: int = 1
    probe_path: str = ""  # empty: what the settings say
    publish: bool = True


class Phase(Enum):
    """What the runtime says an instance is doing."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"  # it was sent a terminating signal, and has not exited yet
    EXITED = "exited"


class EngineHealth(Enum):
    """Docker's HEALTHCHECK verdict; NONE where the image has none."""

    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Instance:
    """One container or process that claims to be a backend, as the runtime sees it now.

    `backend` is None exactly when `problem` says why it cannot be one (no address on the
    project's network yet, a port label out of range, ...). `revision` is that of the Release
    it was started as, 0 for a stranger: one that lbctl did not start, and never replaces.
    `image` is empty where there are none.
    """

    id: str
    name: str
    phase: Phase
    backend: Backend | None
    problem: str = ""
    health: EngineHealth = EngineHealth.NONE
    revision: int = 0
    image: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """What backends are started as. Every rollout makes the next one, also of the same image.

    `revision` counts from 1; `image` is empty where backends are not made from images.
    """

    revision: int = 1
    image: str = ""


class State(Enum):
    """Where a known backend stands on its way into and out of rotation.

    PROBING -> ENROLLING -> JOINING -> UP -> DOWN | EJECTED | DRAINING; any of them -> INVALID.
    """

    INVALID = "invalid"  # cannot be a backend; the reason says which label or address
    PROBING = "probing"  # runs, has not passed a probe since it came
    ENROLLING = "enrolling"  # answers probes, has not taken the list yet
    JOINING = "joining"  # is in the list, gets clients as soon as it acknowledges that list
    UP = "up"  # in the list and in rotation
    DOWN = "down"  # was in rotation; failed, paused or unhealthy now
    EJECTED = "ejected"  # live requests failed on it; out for a while
    DRAINING = "draining"  # leaves: no new request, those in flight may finish


class Cause(Enum):
    """Why a known backend is in the state it is in: what `core/explain.py` puts into words."""

    WELL = "well"  # up
    OPEN = "open"  # up though it is not fit, because nobody is
    SPARED = "spared"  # up though requests fail on it: too few would be left
    FALLING = "falling"  # up, and failed some checks
    LAGGING = "lagging"  # up, and did not take the last list
    UNFIT = "unfit"  # invalid: its labels or its address cannot be meant
    DISPLACED = "displaced"  # invalid: another one has its address now
    UNCHECKED = "unchecked"  # probing: the first check is on its way
    UNPROVEN = "unproven"  # probing: it has never passed a check
    SENDING = "sending"  # enrolling or joining: a list is on its way to it
    REFUSING = "refusing"  # enrolling: it did not take the list
    ENTERING = "entering"  # enrolling: took the list, is in the next one
    EXITED = "exited"  # down, as are the next four
    PAUSED = "paused"
    UNHEALTHY = "unhealthy"  # says Docker's HEALTHCHECK
    FAILING = "failing"  # its checks
    RISING = "rising"  # its checks pass again
    ACCUSED = "accused"  # ejected
    STOPPING = "stopping"  # draining: it was told to stop
    BY_HAND = "by hand"  # draining, until somebody lets it in again
    LEAVING = "leaving"  # draining, and then stopped


class Failure(Enum):
    """How a live request failed on a backend."""

    CONNECT = "connect"  # no connection, or one that ended without an answer
    ANSWER = "5xx"  # answered 5xx, or something that is no HTTP
    TIMEOUT = "timeout"  # no answer in time, or silence until it was asked for elsewhere


@dataclass(frozen=True, slots=True)
class Member:
    """One backend of a membership. `since` is when it entered."""

    backend: Backend
    since: datetime


@dataclass(frozen=True, slots=True)
class Membership:
    """The list: exactly the backends in rotation, in numeric order of their addresses.

    `generation` grows by one with every change and never goes back within a project.
    """

    generation: int
    updated_at: datetime
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What workers route on. `revision` grows with every change of `routes`.

    The membership's generation may move without the routes (and the other way round, for
    the milliseconds in which a newcomer is listed but has not acknowledged the list).
    """

    revision: int
    generation: int
    routes: tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class EjectionStatus:
    """What live requests made of a backend, until `ends_at`: `times` is how many of its ejections
    count, this one among them; `passes` are the checks in a row that it has passed since.
    """

    failure: Failure
    ends_at: datetime
    lasts_s: float
    times: int
    passes: int


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """One row of `lbctl status`: a known backend, in or out of rotation, and why.

    The last `checks_in_a_row` checks all passed, or all failed. `revision` is the instance's, 0
    for a stranger.
    """

    id: str
    name: str
    ip: str
    port: int
    weight: int
    state: State
    reason: str
    since: datetime
    published_generation: int
    last_check: str = ""
    cause: Cause = Cause.WELL
    checks_in_a_row: int = 0
    checks_passed: bool = False
    publish: bool = True
    revision: int = 0
    ejection: EjectionStatus | None = None


class RolloutState(Enum):
    """How far a rollout is. The last three are ends."""

    RUNNING = "running"
    ROLLING_BACK = "rolling back"  # newcomers were not well: the release of before comes back
    DONE = "done"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"  # neither the new release nor the one of before came into rotation


@dataclass(frozen=True, slots=True)
class Rollout:
    """The replacement of every backend that lbctl started by one of another release.

    `total` is how many there will be, `replaced` how many of them are in rotation (while it
    rolls back: of the release of before). `asked` is the image that was named, empty where
    none was. `message` says why it went back or failed, and what the culprit's log says; its
    first line stands for itself.
    """

    release: Release
    previous: Release
    total: int
    batch: int = 1
    asked: str = ""
    state: RolloutState = RolloutState.RUNNING
    replaced: int = 0
    message: str = ""

    @property
    def under_way(self) -> bool:
        return self.state in (RolloutState.RUNNING, RolloutState.ROLLING_BACK)


class HealingState(Enum):
    """What the healer is at."""

    OFF = "off"
    IDLE = "idle"
    REPLACING = "replacing"  # newcomers are on their way
    WAITING = "waiting"  # until a backend has been out for long enough, or for the next try
    GAVE_UP = "gave up"  # too many newcomers in a row were of no use


@dataclass(frozen=True, slots=True)
class Rotation:
    """How an exchange of the tokens went: how many backends took the new one within `spread_s`,
    and which did not: (name, why).
    """

    backends: int
    lagging: tuple[tuple[str, str], ...]
    spread_s: float


@dataclass(frozen=True, slots=True)
class HealingStatus:
    """What the healer is at, and why."""

    state: HealingState
    message: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One health check: `error` is empty if it passed, else what went wrong, in words."""

    error: str
    duration_s: float

    @property
    def passed(self) -> bool:
        return not self.error


CODE_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")

DURATION_BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper bounds of the latency histogram; one more bucket holds what is slower."""


@dataclass(frozen=True, slots=True)
class BackendTraffic:
    """What all workers together, dead ones included, have counted for one backend.

    `codes` is in the order of CODE_CLASSES; `buckets` (not cumulative) has one more entry than
    DURATION_BUCKETS_S. Only `in_flight` goes down again.
    """

    name: str
    codes: tuple[int, ...]
    buckets: tuple[int, ...]
    duration_sum_s: float
    in_flight: int
    retries: dict[str, int]  # by reason: connect, stale, ...


@dataclass(frozen=True, slots=True)
class TrafficTotals:
    """The sum over the workers. `backends` is by id, and keeps those that are gone."""

    backends: dict[str, BackendTraffic]
    refused: dict[str, int]  # requests the lb answered itself, by reason
    connections: dict[str, int]  # open now, by side: downstream, upstream
    tasks: dict[str, int] = field(default_factory=dict)  # asyncio's, by process
    clients: dict[str, int] = field(default_factory=dict)  # connections open now, by worker
    lost_lines: int = 0  # of the access log, because nobody emptied the pipe


@dataclass(frozen=True, slots=True)
class Process:
    """One process of an lb. `role` is supervisor, controller, worker, or draining: a worker of
    before a reload. `lb` is the name of the lb where there are several.
    """

    role: str
    name: str
    pid: int
    restarts: int
    started_at: datetime
    lb: str = ""


@dataclass(frozen=True, slots=True)
class GuardCounts:
    """What guards have counted: requests in all, and those refused by reason."""

    requests: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)


class HistoryState(Enum):
    """Whether the past is written down."""

    OPENING = "opening"
    KEPT = "kept"
    FAILING = "failing"  # it cannot be for now; all else goes on


@dataclass(frozen=True, slots=True)
class HistoryStatus:
    """`message` says why it fails; `lost` events of this controller's time are in no history."""

    state: HistoryState = HistoryState.OPENING
    message: str = ""
    lost: int = 0
    events: int = 0  # in the database; older ones are in partitions


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that clients are shown. `name` is that of its files; `names` are its DNS names,
    in lower case; times are unix seconds.
    """

    name: str
    names: tuple[str, ...]
    not_before_s: int
    not_after_s: int


@dataclass(slots=True)
class ControlStats:
    """Counters the control plane keeps; each field has one writer, read at scrape."""

    discovery_synced_monotonic_s: float | None = None  # of the last complete look
    discovery_problem: str = ""  # why there has been none since; empty if all is well
    events: Counter[str] = field(default_factory=Counter)  # runtime events by action
    publish_sum_s: float = 0.0
    publish_buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS_S) + 1))
    publish_failures: Counter[str] = field(default_factory=Counter)  # by backend name
    ejections: Counter[tuple[str, str]] = field(default_factory=Counter)  # (name, reason)
    guard: GuardCounts | None = None  # None where there is no guard
    history: HistoryStatus = field(default_factory=HistoryStatus)
