from __future__ import annotations

from lbctl.admin.series import MEASURED, SPAN, Series


def measured(value: float) -> dict[str, float]:
    return dict.fromkeys(MEASURED, value)


def test_it_always_spans_the_same_time() -> None:
    series = Series()
    assert series.columns == {name: [None] * SPAN for name in MEASURED}
    for count in range(SPAN + 5):
        series.add(measured(count))
    assert series.columns["p99_ms"] == list(range(5, SPAN + 5))
    assert series.present == measured(SPAN + 4)


def test_what_was_not_measured_stays_a_gap() -> None:
    series = Series()
    series.add(measured(1) | {"p50_ms": None})
    assert series.columns["p50_ms"][-1] is None
    assert series.columns["requests_per_second"][-2:] == [None, 1]
