"""What was measured, as it is kept in capacity.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.compare.results import Interpreter, Machine


@dataclass(frozen=True, slots=True)
class Carried:
    """One kind of load on one worker, the median round. CPU times are those of all the lb's
    processes, in microseconds a request.
    """

    load: str
    requests_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Resting:
    """What an idle client costs a worker's memory."""

    kind: str
    clients: int
    bytes_each: float


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many backends in rotation. Memory is resident, in bytes, after some load; `checking`:
    the part of a CPU that the controller takes at rest. Of new lists: until every backend had it.
    """

    backends: int
    ready_s: float
    worker_bytes: int
    controller_bytes: int
    checking: float
    publish_median_s: float
    publish_worst_s: float


@dataclass(frozen=True, slots=True)
class Results:
    """Everything. `quick`: rounds too short to plan by; `busy`: the load average before."""

    day: str
    lbctl: str
    machine: Machine
    interpreter: Interpreter
    quick: bool
    busy: float
    rounds: int
    seconds: int
    carried: list[Carried]
    resting: list[Resting]
    crowds: list[Crowd]
