"""What differs between two views of a stack, so that only that has to be sent.

A view is `{"summary": {...}, "processes": [...], "backends": [{"id": ..., ...}, ...]}`, all of it
as JSON knows it. A change has the same keys, and only those of them that say something:

    summary    the figures that are others now
    processes  all of them, if any of them is another now
    backends   of each row its id and the cells that are others now; of a new row all cells
    removed    the ids of rows that are gone
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Document = Mapping[str, Any]


def changes(before: Document, after: Document) -> dict[str, Any]:
    """What makes `after` of `before`; empty where they say the same."""
    found: dict[str, Any] = {
        "summary": _cells(before["summary"], after["summary"]),
        "processes": after["processes"] if before["processes"] != after["processes"] else [],
        "backends": _rows(before["backends"], after["backends"]),
        "removed": _removed(before["backends"], after["backends"]),
    }
    return {part: said for part, said in found.items() if said}


def _cells(before: Document, after: Document) -> dict[str, Any]:
    return {key: value for key, value in after.items() if before.get(key, ...) != value}


def _rows(before: Sequence[Document], after: Sequence[Document]) -> list[dict[str, Any]]:
    known = {row["id"]: row for row in before}
    return [
        {"id": row["id"], **cells}
        for row in after
        if (cells := _cells(known.get(row["id"], {}), row))
    ]


def _removed(before: Sequence[Document], after: Sequence[Document]) -> list[str]:
    present = {row["id"] for row in after}
    return [row["id"] for row in before if row["id"] not in present]
