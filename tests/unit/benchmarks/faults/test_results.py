"""benchmarks/faults/results.py"""

from __future__ import annotations

import dataclasses
import json

import pytest
from benchmarks.faults.results import Cell, Results, from_document, to_document

from tests.unit.benchmarks.faults.samples import cost, results

MANY, FEW = Cell([cost(failed={"502": 9})]), Cell([cost(failed={"502": 1})])


def test_a_document_is_read_as_it_was_written() -> None:
    whole = results(
        lbctl={"stop": Cell([cost(), cost(failed={"502": 3, "reset": 1}, hung=2)])},
        haproxy={"scale": Cell([], lacks="it cannot"), "stop": Cell([], problem="no answer")},
    )
    assert from_document(json.loads(json.dumps(to_document(whole)))) == whole


@pytest.mark.parametrize("document", [{}, {"conditions": {}, "columns": {}}])
def test_another_document_is_refused(document: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        from_document(document)


def test_the_worst_round_lost_most() -> None:
    rounds = [cost(gap_s=3), cost(failed={"502": 1}, hung=1), cost(failed={"reset": 1})]
    assert Cell(rounds).worst == rounds[1]


def test_of_rounds_that_lost_as_much_the_worst_has_the_longest_gap() -> None:
    rounds = [cost(gap_s=0.1), cost(gap_s=0.3), cost(gap_s=0.2)]
    assert Cell(rounds).worst == rounds[1]


def test_no_round_has_no_worst() -> None:
    assert Cell([], lacks="it cannot").worst is None


def columns(found: Results) -> dict[str, dict[str, Cell]]:
    return {name: column.cells for name, column in found.columns.items()}


def test_what_was_not_run_again_stays() -> None:
    older = results(lbctl={"stop": MANY, "kill": MANY}, traefik={"stop": MANY})
    both = results(lbctl={"stop": FEW}).over(older)
    assert columns(both) == {"lbctl": {"stop": FEW, "kill": MANY}, "traefik": {"stop": MANY}}
    assert list(both.columns) == ["lbctl", "traefik"]


def test_figures_of_two_versions_do_not_make_one_column() -> None:
    newer = results(lbctl={"stop": FEW})
    column = dataclasses.replace(newer.columns["lbctl"], version="1.2.4")
    newer = Results(newer.conditions, {"lbctl": column})
    older = results(lbctl={"stop": MANY, "kill": MANY}, traefik={"stop": MANY})
    assert columns(newer.over(older)) == {"lbctl": {"stop": FEW}, "traefik": {"stop": MANY}}


def test_figures_of_two_machines_do_not_stand_in_one_table() -> None:
    newer = results(lbctl={"stop": FEW})
    elsewhere = dataclasses.replace(newer.conditions, rate_per_s=1.0)
    older = Results(elsewhere, results(traefik={"stop": MANY}).columns)
    assert newer.over(older) == newer
    assert newer.over(None) == newer
