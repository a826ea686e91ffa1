from __future__ import annotations

from benchmarks.compare import report

from tests.unit.benchmarks.compare.samples import results


def test_it_holds_what_somebody_needs_to_judge_the_figures() -> None:
    text = report.render(results(), notes=False)
    for needed in (
        "A CPU, 2 of them", "Linux 6.18", "CPython 3.11.7, configured without", "1.0%",
        "| CPU a request, logs off, to HAProxy | at most 1 x | 1.000 (0.800 - 1.200) | met |",
        "wrk http://PROXY:8080/list.txt", "`haproxy.cfg`", "HAProxy (2.6.12)",
        "- Envoy: envoy is not installed", "CPU\n1 for itself",
    ):  # fmt: skip
        assert needed in text


def test_every_row_of_a_table_has_as_many_cells_as_its_header() -> None:
    tables = [
        block.splitlines()
        for block in report.render(results(), notes=False).split("\n\n")
        if block.startswith("|")
    ]
    assert len(tables) >= 4
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1


def test_notes_are_pointed_at_where_there_are_any() -> None:
    assert report.NOTES not in report.render(results(), notes=False)
    assert f"({report.NOTES})" in report.render(results(), notes=True)
