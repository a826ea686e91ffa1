"""What all runs found, as it is kept in faults.json."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from benchmarks.compare.results import Machine
from benchmarks.faults.ledger import Figures


@dataclass(frozen=True, slots=True)
class Cell:
    """One disturbance of one stack: a round each. No rounds: why not is in `lacks` if it cannot
    be had there, and in `problem` if it went wrong.
    """

    rounds: list[Figures]
    lacks: str = ""
    problem: str = ""

    @property
    def worst(self) -> Figures | None:
        """The round that lost most; of equals the one with the longest gap."""
        return max(self.rounds, key=lambda one: (one.lost, one.longest_gap_s), default=None)


@dataclass(frozen=True, slots=True)
class Column:
    """One stack; `cells` by disturbance."""

    title: str
    version: str
    day: str
    cells: dict[str, Cell]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must be the same for figures to stand in one table."""

    machine: Machine
    engine: str
    connections: int
    rate_per_s: float
    watch_s: float


@dataclass(frozen=True, slots=True)
class Results:
    """`columns` by entry."""

    conditions: Conditions
    columns: dict[str, Column]

    def over(self, older: Results | None) -> Results:
        """With the cells of an older run that were not run now, if it ran under the same
        conditions.
        """
        if older is None or older.conditions != self.conditions:
            return self
        columns = dict(older.columns)
        for name, column in self.columns.items():
            before = columns.get(name)
            # Figures of two versions do not make one column.
            kept = before.cells if before and before.version == column.version else {}
            columns[name] = dataclasses.replace(column, cells=kept | column.cells)
        return Results(self.conditions, columns)


def to_document(results: Results) -> dict[str, Any]:
    """As JSON knows it; `from_document` is the inverse."""
    return dataclasses.asdict(results)


def from_document(document: dict[str, Any]) -> Results:
    """Raises TypeError or KeyError for anything `to_document` would not have made."""
    conditions = dict(document["conditions"])
    conditions["machine"] = Machine(**conditions["machine"])
    return Results(
        Conditions(**conditions),
        {name: _column(fields) for name, fields in document["columns"].items()},
    )


def _column(fields: dict[str, Any]) -> Column:
    cells = {
        name: Cell(**{**cell, "rounds": [Figures(**figures) for figures in cell["rounds"]]})
        for name, cell in fields["cells"].items()
    }
    return Column(**{**fields, "cells": cells})
