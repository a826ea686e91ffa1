"""benchmarks/faults/report.py"""

from __future__ import annotations

import pytest
from benchmarks.faults.report import brief, render
from benchmarks.faults.results import Cell

from tests.unit.benchmarks.faults.samples import cost, results

FINE = Cell([cost()])


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        (FINE, "0"),
        (Cell([cost(failed={"502": 1_000, "reset": 200})]), "1,200"),
        (Cell([cost(hung=64)]), "64 hung"),
        (Cell([cost(failed={"502": 9}, hung=37)]), "9 and 37 hung"),
        (Cell([cost(), cost(failed={"reset": 2})]), "2"),
        (Cell([], lacks="it cannot"), "n/a"),
        (Cell([], problem="it did not start"), "no figures"),
    ],
)
def test_a_cell_in_brief(cell: Cell | None, text: str) -> None:
    assert brief(cell) == text


def test_every_figure_and_every_reason_is_there() -> None:
    bad = cost(requests=12_345, failed={"502": 9}, hung=37, gap_s=1.25, slowest_s=0.04)
    text = render(
        results(
            lbctl={"stop": FINE, "scale": FINE},
            traefik={"stop": Cell([bad]), "scale": Cell([], problem="it did not start")},
            haproxy={"scale": Cell([], lacks="its list is static")},
        )
    )
    assert "| docker stop of a backend | 0 | 9 and 37 hung |  |" in text
    assert "| Traefik | 1 | 12,345 | 9 502 | 37 | 1.2 s | 40 ms | 0 ms |" in text
    assert "- Traefik: it did not start" in text
    assert "- Haproxy: its list is static" in text
    assert "64 clients" in text
    assert "1,000 GETs a second" in text
    assert "| Traefik | 1.2.3, on 2026-11-27 |" in text


def test_trouble_to_the_end_is_no_figure() -> None:
    unsettled = Cell([cost(trouble_s=14.6, watched_s=15.0)])
    assert "| more than 14.6 s |" in render(results(haproxy={"stop": unsettled}))


def better(mine: Cell, peer: Cell) -> list[str]:
    """The lines that say where a peer does better."""
    text = render(results(lbctl={"stop": mine}, traefik={"stop": peer}))
    _, _, rest = text.partition("## Where a peer does better\n\n")
    return rest.partition("\n\n")[0].splitlines()


@pytest.mark.parametrize(
    ("mine", "peer", "said"),
    [
        (cost(failed={"502": 3}), cost(hung=1), "1 hung lost to lbctl's 3"),
        (cost(gap_s=1.5), cost(gap_s=0.1), "a gap of 100 ms to lbctl's 1.5 s"),
        (cost(slowest_s=1.0), cost(), "its slowest answer after 20 ms, lbctl's 1.0 s"),
    ],
)
def test_a_peer_that_does_better_is_named(mine: object, peer: object, said: str) -> None:
    lines = better(Cell([mine]), Cell([peer]))  # type: ignore[list-item]
    assert lines == [f"- docker stop of a backend: Traefik, {said}"]


@pytest.mark.parametrize(
    ("mine", "peer"),
    [
        (FINE, FINE),
        (FINE, Cell([cost(failed={"502": 1})])),
        (Cell([cost(gap_s=0.2)]), FINE),  # the machine's
        (FINE, Cell([], lacks="it cannot")),
        (Cell([], problem="it did not start"), FINE),
    ],
)
def test_where_none_does_that_is_said(mine: Cell, peer: Cell) -> None:
    assert better(mine, peer) == ["Nowhere in this table."]


def test_a_table_without_lbctl_compares_nothing() -> None:
    assert "Nowhere" in render(results(traefik={"stop": FINE}))
