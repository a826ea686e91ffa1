from __future__ import annotations

from benchmarks.capacity import report

from tests.unit.benchmarks.capacity.samples import results


def test_every_figure_is_in_it_with_its_unit() -> None:
    text = report.text(results())
    assert "| keep-alive | 40,123 | 24.0 | 1.40 | 9.00 |" in text
    assert "| plain | 5,000 | 1,679 |" in text
    assert "| 3 | 1.25 | 25.0 | 45.0 | 0.40 | 5.50 | 12.0 |" in text
    assert "| CPU | a CPU, 2 of them |" in text
    assert "CPython 3.13.1, without --enable-optimizations" in text
    assert "| load average before | 0.25 |" in text
    assert "2.0%" in text


def test_what_a_backend_costs_is_the_difference() -> None:
    assert "a backend costs 10.2 KiB of each worker and 20.5 KiB of the" in report.text(results())
    assert "a backend costs" not in report.text(results(crowds=1))


def test_a_quick_run_says_that_it_is_none_to_plan_by() -> None:
    assert "not figures to plan by" in report.text(results(quick=True))
    assert "not figures to plan by" not in report.text(results())
