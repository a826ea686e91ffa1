"""What a whole comparison found, as it is kept in results.json."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it ran. `stolen`: the part of CPU time that the hypervisor gave to others."""

    cpu: str
    cpus: int
    kernel: str
    stolen: float = 0.0


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Of lbctl. `optimised`: its build was configured with --enable-optimizations; a package's
    builder may have had the same by other means, so `loop_ms` is what a fixed loop of pure Python
    took.
    """

    version: str
    uvloop: str
    optimised: bool
    loop_ms: float


@dataclass(frozen=True, slots=True)
class Peer:
    """One row, and how it was run. `left_out`: why there are no figures for it."""

    name: str
    title: str
    reference: str
    version: str = ""
    command: str = ""
    files: dict[str, str] = field(default_factory=dict)
    left_out: str = ""
    lines_per_request: float | None = None  # of the access log, where it has one


@dataclass(frozen=True, slots=True)
class Run:
    """One turn of one proxy. `problem`: why nothing of it counts. The times in CPU seconds are
    those of all the proxy's processes, and of the busiest one; None without a proxy.
    """

    scenario: str
    peer: str
    round: int
    problem: str = ""
    requests: int = 0
    duration_s: float = 0.0
    bytes: int = 0
    p50_us: int = 0
    p99_us: int = 0
    p999_us: int = 0
    cpu_s: float | None = None
    busiest_cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """Everything. `wrk`: the load generator's command line, by scenario."""

    day: str
    lbctl: str
    machine: Machine
    interpreter: Interpreter
    rounds: int
    seconds: int
    proxy_cpu: int
    load_cpus: list[int]
    scenarios: dict[str, str]
    wrk: dict[str, str]
    wrk_version: str
    backends: str
    peers: list[Peer]
    runs: list[Run]


def to_document(results: Results) -> dict[str, Any]:
    """As JSON knows it; `from_document` is the inverse."""
    return dataclasses.asdict(results)


def from_document(document: dict[str, Any]) -> Results:
    """Raises TypeError or KeyError for anything `to_document` would not have made."""
    fields = dict(document)
    fields["machine"] = Machine(**fields["machine"])
    fields["interpreter"] = Interpreter(**fields["interpreter"])
    fields["peers"] = [Peer(**peer) for peer in fields["peers"]]
    fields["runs"] = [Run(**run) for run in fields["runs"]]
    return Results(**fields)
