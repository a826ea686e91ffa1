from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.changes import changes

CELLS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3) | st.none(), min_size=3)


def _row(id_: str, cells: dict[str, Any]) -> dict[str, Any]:
    return {"id": id_, **cells}


ROWS = st.dictionaries(st.sampled_from("vwxyz"), CELLS).map(
    lambda rows: [_row(*one) for one in sorted(rows.items())]
)
VIEWS = st.fixed_dictionaries(
    {"summary": CELLS, "processes": st.lists(CELLS, max_size=2), "backends": ROWS}
)


def applied(view: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the stream makes of a change."""
    rows = {row["id"]: dict(row) for row in view["backends"]}
    for id_ in change.get("removed", ()):
        del rows[id_]
    for row in change.get("backends", ()):
        rows.setdefault(row["id"], {}).update(row)
    return {
        "summary": view["summary"] | change.get("summary", {}),
        "processes": change.get("processes", view["processes"]),
        "backends": sorted(rows.values(), key=lambda row: str(row["id"])),
    }


@given(VIEWS, VIEWS)
def test_a_change_makes_the_new_of_the_old(before: dict[str, Any], after: dict[str, Any]) -> None:
    if not after["processes"]:  # there is always one: who else would tell
        after["processes"] = [{"a": 1}]
    assert applied(before, changes(before, after)) == after


@given(VIEWS)
def test_nothing_is_said_of_what_is_the_same(view: dict[str, Any]) -> None:
    assert changes(view, view) == {}


def test_only_cells_that_differ_are_told() -> None:
    before = {
        "summary": {"generation": 7, "in_rotation": 2},
        "processes": [{"pid": 1}],
        "backends": [
            {"id": "a", "state": "up", "in_flight": 1},
            {"id": "b", "state": "up", "in_flight": 1},
            {"id": "c", "state": "up", "in_flight": 1},
        ],
    }
    after = {
        "summary": {"generation": 8, "in_rotation": 2},
        "processes": [{"pid": 1}],
        "backends": [
            {"id": "a", "state": "up", "in_flight": 1},
            {"id": "b", "state": "down", "in_flight": 1},
            {"id": "d", "state": "probing", "in_flight": 0},
        ],
    }
    assert changes(before, after) == {
        "summary": {"generation": 8},
        "backends": [
            {"id": "b", "state": "down"},
            {"id": "d", "state": "probing", "in_flight": 0},
        ],
        "removed": ["c"],
    }


def test_a_value_that_becomes_null_is_told() -> None:
    before = {"summary": {"p99_ms": 1.5}, "processes": [], "backends": []}
    after = {"summary": {"p99_ms": None}, "processes": [], "backends": []}
    assert changes(before, after) == {"summary": {"p99_ms": None}}
