"""Results as a run has them."""

from __future__ import annotations

from benchmarks.compare.results import Machine
from benchmarks.faults.ledger import Figures
from benchmarks.faults.results import Cell, Column, Conditions, Results


def cost(
    *,
    requests: int = 14_000,
    failed: dict[str, int] | None = None,
    hung: int = 0,
    gap_s: float = 0.01,
    slowest_s: float = 0.02,
    trouble_s: float = 0.0,
    watched_s: float = 15.0,
) -> Figures:
    return Figures(requests, failed or {}, hung, gap_s, slowest_s, trouble_s, watched_s)


def results(**cells: dict[str, Cell]) -> Results:
    """`cells` of each column by disturbance."""
    columns = {
        name: Column(name.capitalize(), "1.2.3", "2026-11-27", found)
        for name, found in cells.items()
    }
    return Results(
        Conditions(Machine("a CPU", 2, "Linux 6.1"), "20.10", 64, 1_000.0, 15.0), columns
    )
