"""Results as a run might have had them."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.capacity.results import Carried, Crowd, Resting, Results
from benchmarks.compare.results import Interpreter, Machine

_MIB = 1 << 20


def results(*, quick: bool = False, crowds: int = 2) -> Results:
    small = Crowd(3, 1.25, 25 * _MIB, 45 * _MIB, 0.004, 0.0055, 0.012)
    large = replace(small, backends=1003, worker_bytes=35 * _MIB, controller_bytes=65 * _MIB)
    return Results(
        "2026-11-27", "0.1.0", Machine("a CPU", 2, "Linux 6", 0.02),
        Interpreter("CPython 3.13.1", "0.22.1", optimised=False, loop_ms=80.0),
        quick, 0.25, 5, 10,
        [Carried("keep-alive", 40_123.4, 24.02, 1.4, 9.0)],
        [Resting("plain", 5000, 1679.4)],
        [small, large][:crowds],
    )  # fmt: skip
