from __future__ import annotations

import pytest
from benchmarks.compare import tables
from benchmarks.compare.figures import Spread
from benchmarks.compare.results import Run

from tests.unit.benchmarks.compare.samples import results, run


@pytest.mark.parametrize(
    ("value", "text"), [(0.456, "0.46"), (9.87, "9.87"), (45.67, "45.7"), (456.7, "457"),
                        (45678.9, "45,679")],
)  # fmt: skip
def test_a_number_has_three_digits_that_say_something(value: float, text: str) -> None:
    assert tables.number(value) == text


def test_bounds_are_shown_where_they_differ() -> None:
    assert tables.shown(Spread(2.0, 1.0, 3.0)) == "2.00 (1.00 - 3.00)"
    assert tables.shown(Spread(2000.0, 2000.0, 2000.0), 1e-3) == "2.00"
    assert tables.shown(None) == "-"


def test_a_row_for_each_who_took_part() -> None:
    table = tables.scenario_table(results(), "small")
    assert [row[0] for row in table.rows] == ["lbctl", "HAProxy", "Caddy & <co>"]
    assert {len(row) for row in table.rows} == {len(table.header)}
    assert table.rows[0][1:5] == ["25.0 (20.0 - 30.0)", "1.00 (0.80 - 1.20)", "1,000", "1.25"]


def test_a_terminal_has_the_medians_and_the_ratio_of_the_cpu() -> None:
    row = tables.scenario_table(results(), "small", brief=True).rows[0]
    assert row[1:5] == ["25.0", "1.00 (0.80 - 1.20)", "1,000", "1.25"]


def test_a_round_with_errors_is_told_and_not_averaged_in() -> None:
    runs = [run("lbctl", 1, 20.0), Run("small", "lbctl", 2, "errors: 1 timeout")]
    table = tables.scenario_table(results(runs), "small")
    assert table.rows[0][1] == "20.0"
    assert table.rows[0][-1] == "1"
    assert table.notes == ["lbctl: round 2: errors: 1 timeout"]


def test_large_files_are_told_in_bytes_a_second() -> None:
    runs = [run("lbctl", 1, 5000.0, scenario="10m", rate=1 << 20)]
    table = tables.scenario_table(results(runs), "10m")
    assert table.header[1:4] == ["CPU ms a request", "x HAProxy", "MiB/s"]
    assert table.rows[0][1] == "5.00"
    assert table.rows[0][3] == "100"


def test_who_is_left_out_is_named_with_the_reason() -> None:
    assert tables.left_out(results()) == ["Envoy: envoy is not installed"]
