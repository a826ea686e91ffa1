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
    from datetime import datetime

LABEL_ROLE = "lbctl.role"
LABEL_PROJECT = "lbctl.project"
LABEL_PORT = "lbctl.port"
LABEL_ADMIN_PORT = "lbctl.admin-port"
LABEL_PROBE = "lbctl.probe"
LABEL_WEIGHT = "lbctl.weight"
LABEL_PUBLISH = "lbctl.publish"


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
    probe_path: str = "/healthz"
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
    project's network yet, a port label out of range, ...).
    """

    id: str
    name: str
    phase: Phase
    backend: Backend | None
    problem: str = ""
    health: EngineHealth = EngineHealth.NONE


class State(Enum):
    """Where a known backend stands on its way into and out of rotation.

    PROBING -> ENROLLING -> JOINING -> UP -> DOWN | DRAINING; any of them -> INVALID.
    """

    INVALID = "invalid"  # cannot be a backend; the reason says which label or address
    PROBING = "probing"  # runs, has not passed a probe since it came
    ENROLLING = "enrolling"  # answers probes, has not taken the list yet
    JOINING = "joining"  # is in the list, gets clients as soon as it acknowledges that list
    UP = "up"  # in the list and in rotation
    DOWN = "down"  # was in rotation; failed, paused or unhealthy now
    DRAINING = "draining"  # leaves: no new request, those in flight may finish


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
class BackendStatus:
    """One row of `lbctl status`: a known backend, in or out of rotation, and why."""

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


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the lb. `role` is supervisor, controller or worker."""

    role: str
    name: str
    pid: int
    restarts: int
    started_at: datetime


@dataclass(slots=True)
class ControlStats:
    """Counters the control plane keeps; each field has one writer, read at scrape."""

    discovery_synced_monotonic_s: float | None = None  # of the last complete look
    events: Counter[str] = field(default_factory=Counter)  # runtime events by action
    publish_count: int = 0
    publish_sum_s: float = 0.0
    publish_buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS_S) + 1))
    publish_failures: Counter[str] = field(default_factory=Counter)  # by backend name
    ejections: Counter[tuple[str, str]] = field(default_factory=Counter)  # (name, reason)
