from __future__ import annotations

from datetime import timedelta

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lbctl.admin.metrics import LbCollector, registry
from lbctl.model import (
    DURATION_BUCKETS_S,
    Certificate,
    ControlStats,
    GuardCounts,
    Process,
    State,
)
from tests.support.promtool import promtool
from tests.unit.admin.fakes import (
    BUCKETS,
    WHEN,
    FakeFleet,
    FakeTraffic,
    backend_status,
    synced_stats,
    traffic,
)

HOSTILE = 'x"} 1\nlbctl_evil{a="\\'
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(fleet: FakeFleet, counted: FakeTraffic, stats: ControlStats) -> str:
    collector = LbCollector(fleet, counted, stats, {"version": "1.2.3"}, clock=lambda: 142.5)
    return generate_latest(registry(collector)).decode()


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def full() -> tuple[FakeFleet, FakeTraffic, ControlStats]:
    fleet = FakeFleet(
        backend_status("b-1"),
        backend_status("b-2", state=State.DOWN, published=6),
        backend_status(HOSTILE, state=State.INVALID, published=0),
    )
    counted = FakeTraffic(
        id_b_1=traffic("b-1", ok=5, in_flight=2, retries={"connect": 1}),
        id_gone=traffic("b-1", ok=3, retries={"connect": 2, "stale": 1}),
        id_h=traffic(HOSTILE, ok=1),
    )
    counted.refused = {"bad_length": 4}
    counted.lost_lines = 12
    counted.shown = [Certificate("shop", (), 1, 1_800_000_000), Certificate(HOSTILE, (), 1, 2)]
    counted.connections = {"downstream": 9, "upstream": 3}
    stats = synced_stats()
    stats.events.update({"start": 2, HOSTILE: 1})
    stats.publish_sum_s = 0.3
    stats.publish_buckets[7] = 2
    stats.publish_failures["b-2"] = 3
    stats.ejections["b-2", "connect"] = 1
    return fleet, counted, stats


def test_when_certificates_expire() -> None:
    found = samples(scrape(*full()))
    series = "lbctl_tls_certificate_expiry_timestamp_seconds"
    assert found[series, (("name", "shop"),)] == 1_800_000_000


def test_every_name_of_the_contract_and_its_value() -> None:
    found = samples(scrape(*full()))

    def value(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    assert value("lbctl_requests_total", backend="b-1", code="2xx") == 8
    assert value("lbctl_requests_total", backend="b-1", code="5xx") == 0
    assert value("lbctl_request_duration_seconds_count", backend="b-1") == 8
    assert value("lbctl_request_duration_seconds_sum", backend="b-1") == pytest.approx(0.0016)
    assert value("lbctl_request_duration_seconds_bucket", backend="b-1", le="0.0005") == 8
    assert value("lbctl_request_duration_seconds_bucket", backend="b-1", le="+Inf") == 8
    assert value("lbctl_backend_state", backend="b-2", state="down") == 1
    assert value("lbctl_backend_state", backend="b-2", state="up") == 0
    assert value("lbctl_backend_in_flight", backend="b-1") == 2
    assert value("lbctl_backend_in_flight", backend="b-2") == 0
    assert value("lbctl_connections", side="downstream") == 9
    assert value("lbctl_retries_total", backend="b-1", reason="connect") == 3
    assert value("lbctl_retries_total", backend="b-1", reason="stale") == 1
    assert value("lbctl_refused_total", reason="bad_length") == 4
    assert value("lbctl_access_log_lines_lost_total") == 12
    assert value("lbctl_ejections_total", backend="b-2", reason="connect") == 1
    assert value("lbctl_membership_generation") == 7
    assert value("lbctl_published_generation", backend="b-2") == 6
    assert value("lbctl_publish_duration_seconds_count") == 2
    assert value("lbctl_publish_duration_seconds_sum") == pytest.approx(0.3)
    assert value("lbctl_publish_duration_seconds_bucket", le="0.05") == 0
    assert value("lbctl_publish_duration_seconds_bucket", le="0.1") == 2
    assert value("lbctl_publish_failures_total", backend="b-2") == 3
    assert value("lbctl_discovery_age_seconds") == pytest.approx(42.5)
    assert value("lbctl_docker_events_total", action="start") == 2
    assert value("lbctl_worker_up", worker="worker-1") == 1
    assert value("lbctl_process_start_time_seconds", process="worker-1") == WHEN.timestamp()
    assert value("lbctl_build_info", version="1.2.3") == 1


def test_states_are_one_hot() -> None:
    found = samples(scrape(*full()))
    for backend in ("b-1", "b-2", HOSTILE):
        hot = [
            value
            for (name, labels), value in found.items()
            if name == "lbctl_backend_state" and ("backend", backend) in labels
        ]
        assert len(hot) == len(State)
        assert sum(hot) == 1


def test_hostile_labels_stay_labels() -> None:
    text = scrape(*full())
    assert not any(line.startswith("lbctl_evil") for line in text.splitlines())
    key = ("lbctl_docker_events_total", (("action", HOSTILE),))
    assert samples(text)[key] == 1


def test_an_empty_lb_can_be_scraped() -> None:
    found = samples(scrape(FakeFleet(), FakeTraffic(), ControlStats()))
    assert not any(name == "lbctl_discovery_age_seconds" for name, _ in found)
    assert found["lbctl_membership_generation", ()] == 7


def test_a_worker_that_is_gone_reads_zero() -> None:
    counted = FakeTraffic()
    collector = LbCollector(FakeFleet(), counted, synced_stats(), {"version": "1"})
    own = registry(collector)
    key = ("lbctl_worker_up", (("worker", "worker-1"),))
    assert samples(generate_latest(own).decode())[key] == 1
    counted.running = counted.running[:1]
    assert samples(generate_latest(own).decode())[key] == 0


def test_a_worker_that_drains_hides_not_who_took_its_place() -> None:
    counted = FakeTraffic()
    counted.running.append(Process("draining", "worker-1", 16, 0, WHEN - timedelta(hours=1)))
    found = samples(scrape(FakeFleet(), counted, synced_stats()))
    series = "lbctl_process_start_time_seconds"
    assert found[series, (("process", "worker-1"),)] == WHEN.timestamp()


def test_what_the_guard_counted_where_there_is_one() -> None:
    assert "lbctl_guard" not in scrape(FakeFleet(), FakeTraffic(), ControlStats())
    stats = ControlStats(guard=GuardCounts(7, {"path": 2, "body": 1}))
    found = samples(scrape(FakeFleet(), FakeTraffic(), stats))
    assert found["lbctl_guard_requests_total", ()] == 7
    assert found["lbctl_guard_refused_total", (("reason", "path"),)] == 2
    assert found["lbctl_guard_refused_total", (("reason", "body"),)] == 1
    assert found["lbctl_guard_refused_total", (("reason", "container"),)] == 0


def test_two_backends_of_one_name_are_one_series() -> None:
    fleet = FakeFleet(
        backend_status("b", id_="old", state=State.DRAINING), backend_status("b", id_="new")
    )
    counted = FakeTraffic(old=traffic("b", ok=1, in_flight=1), new=traffic("b", ok=2, in_flight=1))
    found = samples(scrape(fleet, counted, synced_stats()))
    assert found["lbctl_backend_in_flight", (("backend", "b"),)] == 2


def test_buckets_are_cumulative() -> None:
    counts = list(range(BUCKETS))
    counted = FakeTraffic(a=traffic("a", ok=sum(counts), buckets=counts))
    found = samples(scrape(FakeFleet(), counted, synced_stats()))
    name = "lbctl_request_duration_seconds_bucket"
    for position, bound in enumerate(DURATION_BUCKETS_S):
        key = (name, (("backend", "a"), ("le", str(bound))))
        assert found[key] == sum(counts[: position + 1])
    assert found[name, (("backend", "a"), ("le", "+Inf"))] == sum(counts)


@pytest.mark.parametrize("empty", [False, True])
def test_promtool_finds_nothing(empty: bool) -> None:
    text = scrape(FakeFleet(), FakeTraffic(), ControlStats()) if empty else scrape(*full())
    assert promtool("check", "metrics", given=text) == ""
