from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from lbctl.admin.metrics import LbCollector, registry
from lbctl.cli.meter import WINDOW_S, Counts, Meter, Pulse, read_counts, sparkline
from lbctl.model import DURATION_BUCKETS_S
from tests.unit.admin.fakes import FakeFleet, FakeTraffic, synced_stats, traffic

NONE = tuple([0] * (len(DURATION_BUCKETS_S) + 1))


def counts(requests: int, failed: int = 0, *, bucket: int = 1) -> Counts:
    """All of them took as long."""
    return Counts(requests, failed, (*NONE[:bucket], requests, *NONE[bucket + 1 :]))


def test_metrics_are_read_as_they_are_written() -> None:
    slow = [0] * len(NONE)
    slow[-1] = 2
    fake = FakeTraffic(a=traffic("a", ok=5), b=traffic('b"}\\', ok=7, buckets=slow))
    fake.refused = {"no_backend": 3, "head_timeout": 4}
    text = generate_latest(registry(LbCollector(FakeFleet(), fake, synced_stats(), {}))).decode()
    found = read_counts(text)
    # One name that nobody could have is left out; the rest is there.
    assert (found.requests, found.failed) == (5 + 3, 3)
    assert (found.buckets[0], sum(found.buckets)) == (5, 5)


@pytest.mark.parametrize("text", ["", "x", "# HELP lbctl_requests_total\n", "lbctl_requests_total"])
def test_what_is_not_there_counts_as_none(text: str) -> None:
    assert read_counts(text) == Counts(0, 0, NONE)


def test_what_the_last_seconds_did() -> None:
    meter = Meter()
    for second in range(20):
        meter.observe(float(second), counts(second * 100, failed=second * 5))
    pulse = meter.pulse()
    assert pulse.requests_per_second == pytest.approx(100)
    assert pulse.failed_ratio == pytest.approx(0.05)
    assert pulse.p50_s == pytest.approx(0.00075)
    assert pulse.p99_s == pytest.approx(0.000995)
    assert list(meter.history) == [100.0] * 19


def test_only_the_last_seconds_count() -> None:
    meter = Meter()
    for second in range(20):
        meter.observe(float(second), counts(min(second, 5) * 1000))
    assert meter.pulse() == Pulse()
    assert WINDOW_S < 14


@pytest.mark.parametrize("looks", [[], [(1.0, 5)], [(1.0, 5), (2.0, 5)], [(1.0, 5), (1.0, 9)]])
def test_nothing_is_said_of_nothing(looks: list[tuple[float, int]]) -> None:
    meter = Meter()
    for now_s, requests in looks:
        meter.observe(now_s, counts(requests))
    assert meter.pulse() == Pulse()


def test_a_controller_that_knows_less_begins_anew() -> None:
    meter = Meter()
    for now_s, requests in ((1.0, 900), (2.0, 1000), (3.0, 10), (4.0, 60)):
        meter.observe(now_s, counts(requests))
    assert meter.pulse().requests_per_second == pytest.approx(50)
    assert list(meter.history) == [100.0, 50.0]


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([], 5, ""), ([1.0], 0, ""), ([1.0], -3, ""), ([0.0, 0.0], 5, "▁▁"),
        ([0.0, 50.0, 100.0], 5, "▁▄█"), ([7.0, 1.0, 8.0], 2, "▁█"), ([0.001, 1000.0], 2, "▁█"),
    ],
)  # fmt: skip
def test_a_curve_is_as_wide_as_there_is_room(values: list[float], width: int, bars: str) -> None:
    assert sparkline(values, width) == bars


def test_a_curve_without_unicode() -> None:
    assert sparkline([0.0, 50.0, 100.0], 5, plain=True) == ".=@"
