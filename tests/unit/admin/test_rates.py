from __future__ import annotations

import bisect
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lbctl
from lbctl.admin.rates import IDLE, UNSERVED, Rate, RateWindow, quantile
from lbctl.model import DURATION_BUCKETS_S, BackendTraffic, TrafficTotals
from tests.unit.admin.fakes import BUCKETS, traffic

DURATIONS = st.lists(st.floats(0, 60, allow_nan=False), min_size=1, max_size=300)


def histogram(durations: list[float]) -> list[int]:
    counts = [0] * BUCKETS
    for duration in durations:
        counts[bisect.bisect_left(DURATION_BUCKETS_S, duration)] += 1
    return counts


def totals(**ok: int) -> TrafficTotals:
    return TrafficTotals({name: traffic(name, ok=count) for name, count in ok.items()}, {}, {})


@given(DURATIONS)
def test_p99_lies_in_the_bucket_of_the_exact_one(durations: list[float]) -> None:
    exact = sorted(durations)[math.ceil(0.99 * len(durations)) - 1]
    bucket = bisect.bisect_left(DURATION_BUCKETS_S, exact)
    lower = DURATION_BUCKETS_S[bucket - 1] if bucket else 0.0
    upper = DURATION_BUCKETS_S[min(bucket, len(DURATION_BUCKETS_S) - 1)]
    estimate = quantile(0.99, histogram(durations))
    assert estimate is not None
    assert lower <= estimate <= upper


@given(DURATIONS, st.floats(0, 1), st.floats(0, 1))
def test_quantiles_grow_with_their_rank(durations: list[float], one: float, other: float) -> None:
    counts = histogram(durations)
    low, high = quantile(min(one, other), counts), quantile(max(one, other), counts)
    assert low is not None
    assert high is not None
    assert low <= high + 1e-12


def test_quantile_within_one_bucket_is_interpolated() -> None:
    assert quantile(0.5, [10, 0, 0], (1.0, 2.0)) == pytest.approx(0.5)
    assert quantile(0.99, [0, 100, 0], (1.0, 2.0)) == pytest.approx(1.99)


def test_quantile_of_nothing_and_past_the_end() -> None:
    assert quantile(0.99, [0] * BUCKETS) is None
    assert quantile(0.99, [*[0] * (BUCKETS - 1), 5]) == DURATION_BUCKETS_S[-1]


def test_rate_over_the_window() -> None:
    window = RateWindow(5)
    window.observe(0, totals(a=100))
    rates = window.rates(2, totals(a=300))
    assert rates["a"].requests_per_second == pytest.approx(100)
    assert rates["a"].p99_s == pytest.approx(0.99 * DURATION_BUCKETS_S[0])


def test_old_samples_leave_the_window() -> None:
    window = RateWindow(5)
    for second in range(20):
        window.observe(second, totals(a=1000 if second >= 10 else 0))
    # The burst between 9 and 10 is more than five seconds ago.
    assert window.rates(19.5, totals(a=1000))["a"] == IDLE


def test_a_backend_that_appears_with_a_history_has_no_rate_yet() -> None:
    window = RateWindow(5)
    window.observe(0, totals())
    assert window.rates(1, totals(a=1_000_000))["a"] == IDLE
    window.observe(1, totals(a=1_000_000))
    rate = window.rates(2, totals(a=1_000_010))["a"]
    assert rate.requests_per_second == pytest.approx(10)


def test_without_a_sample_there_is_no_rate() -> None:
    assert RateWindow().rates(1, totals(a=5))["a"] == IDLE


def test_an_idle_backend_has_no_p99() -> None:
    window = RateWindow()
    window.observe(0, totals(a=5))
    assert window.rates(3, totals(a=5))["a"] == IDLE


def failing(name: str, *, ok: int, failed: int) -> BackendTraffic:
    return replace(traffic(name, ok=ok + failed), codes=(0, ok, 0, 0, failed))


def test_errors_are_the_share_of_5xx() -> None:
    window = RateWindow()
    window.observe(0, TrafficTotals({"a": failing("a", ok=10, failed=10)}, {}, {}))
    rate = window.rates(2, TrafficTotals({"a": failing("a", ok=40, failed=20)}, {}, {}))["a"]
    assert rate.error_ratio == pytest.approx(0.25)
    assert rate.requests_per_second == pytest.approx(20)


def test_p50_lies_below_p99() -> None:
    buckets = [90, 0, 0, 10, *[0] * (BUCKETS - 4)]
    window = RateWindow()
    window.observe(0, totals(a=0))
    now = TrafficTotals({"a": traffic("a", ok=100, buckets=buckets)}, {}, {})
    rate = window.rates(1, now)["a"]
    assert rate.p50_s is not None
    assert rate.p99_s is not None
    assert rate.p50_s <= DURATION_BUCKETS_S[0]
    assert DURATION_BUCKETS_S[2] < rate.p99_s <= DURATION_BUCKETS_S[3]


def test_overall_is_all_backends_together() -> None:
    window = RateWindow()
    window.observe(0, TrafficTotals({"a": traffic("a"), "b": traffic("b")}, {}, {}))
    slow = [0] * (BUCKETS - 1) + [50]
    now = TrafficTotals(
        {"a": failing("a", ok=140, failed=10), "b": traffic("b", ok=50, buckets=slow)}, {}, {}
    )
    rate = window.overall(2, now)
    assert rate.requests_per_second == pytest.approx(100)
    assert rate.error_ratio == pytest.approx(0.05)
    assert rate.p50_s is not None
    assert rate.p50_s <= DURATION_BUCKETS_S[0]
    assert rate.p99_s == DURATION_BUCKETS_S[-1]


def test_overall_counts_what_no_backend_answered() -> None:
    window = RateWindow()
    window.observe(0, TrafficTotals({}, {"no_backend": 5, "head_timeout": 1}, {}))
    now = TrafficTotals({}, {"no_backend": 25, "head_timeout": 90}, {})
    rate = window.overall(2, now)
    assert rate == Rate(10, None, None, 1)
    assert window.overall(2, TrafficTotals({}, {"no_backend": 5}, {})) == IDLE


def test_overall_takes_no_newcomer_s_history_for_a_burst() -> None:
    window = RateWindow()
    window.observe(0, totals(a=10))
    rate = window.overall(1, totals(a=20, b=1_000_000))
    assert rate.requests_per_second == pytest.approx(10)


def test_overall_of_nothing() -> None:
    assert RateWindow().overall(1, totals(a=5)) == IDLE


def test_reasons_for_which_nobody_was_served_are_the_proxy_s_own() -> None:
    source = "".join(
        file.read_text(encoding="utf-8")
        for directory in ("proxy", "core")
        for file in (Path(lbctl.__file__).parent / directory).glob("*.py")
    )
    assert [reason for reason in UNSERVED if f'"{reason}"' not in source] == []
