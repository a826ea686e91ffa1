"""/metrics: pulled at every scrape from counters that their owners keep anyway.

Names and labels are those of the documented contract; `backend` is a backend's name. One name
may have belonged to several backends, one after the other: their counters are added up, so
that a series never goes back.
"""

from __future__ import annotations

import time
from collections import Counter
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from lbctl.core.allowlist import REASONS
from lbctl.core.text import printable
from lbctl.model import CODE_CLASSES, DURATION_BUCKETS_S, HistoryState, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from lbctl.model import BackendStatus, BackendTraffic, ControlStats, GuardCounts
    from lbctl.ports import Fleet, Traffic

_BOUNDS = [*map(str, DURATION_BUCKETS_S), "+Inf"]


class LbCollector(Collector):
    """Everything one lb exposes. `info` are the labels of lbctl_build_info.

    It remembers nothing but the names of the workers it has seen, so that a worker which is
    gone reads 0 rather than vanishing from an alert's sight.
    """

    def __init__(
        self,
        fleet: Fleet,
        traffic: Traffic,
        stats: ControlStats,
        info: dict[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._traffic = traffic
        self._stats = stats
        self._info = info
        self._clock = clock
        self._workers: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        backends = {status.name: status for status in self._fleet.backends()}
        yield from self._of_traffic(backends)
        yield from self._of_backends(backends.values())
        yield from self._of_control()
        yield self._of_workers()
        yield self._of_processes()
        yield self._of_certificates()
        build = GaugeMetricFamily(
            "lbctl_build_info", "What runs here; always 1.", labels=list(self._info)
        )
        build.add_metric(list(self._info.values()), 1)
        yield build

    def _of_traffic(self, known: Iterable[str]) -> Iterator[Metric]:
        totals = self._traffic.totals()
        requests = CounterMetricFamily(
            "lbctl_requests_total",
            "Responses of backends, by class of status.",
            labels=["backend", "code"],
        )
        duration = HistogramMetricFamily(
            "lbctl_request_duration_seconds",
            "From a request's head to the end of its response.",
            labels=["backend"],
        )
        in_flight = GaugeMetricFamily(
            "lbctl_backend_in_flight", "Requests that a backend has not ended.", labels=["backend"]
        )
        retries = CounterMetricFamily(
            "lbctl_retries_total",
            "Requests taken from a backend and given to another, by reason.",
            labels=["backend", "reason"],
        )
        by_name = _by_name(totals.backends.values())
        for name, parts in sorted(by_name.items()):
            for code, count in zip(CODE_CLASSES, _sums(part.codes for part in parts), strict=True):
                requests.add_metric([name, code], count)
            buckets = _cumulative(_sums(part.buckets for part in parts))
            duration.add_metric([name], buckets, sum(part.duration_sum_s for part in parts))
            reasons: Counter[str] = Counter()
            for part in parts:
                reasons.update(part.retries)
            for reason, count in sorted(reasons.items()):
                retries.add_metric([name, reason], count)
        for name in sorted(known):
            in_flight.add_metric([name], sum(part.in_flight for part in by_name.get(name, ())))
        yield from (requests, duration, in_flight, retries)

        yield _counter(
            "lbctl_refused_total",
            "Requests the load balancer answered itself, by reason.",
            "reason",
            totals.refused,
        )
        yield _gauge(
            "lbctl_connections", "Connections open now, by side.", "side", totals.connections
        )
        yield _gauge(
            "lbctl_worker_connections",
            "Connections of clients that a worker has open now.",
            "worker",
            totals.clients,
        )
        yield _gauge(
            "lbctl_asyncio_tasks", "Tasks of a process's event loop.", "process", totals.tasks
        )
        yield CounterMetricFamily(
            "lbctl_access_log_lines_lost_total",
            "Lines of the access log that there was no room for.",
            value=totals.lost_lines,
        )

    def _of_backends(self, backends: Iterable[BackendStatus]) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "lbctl_backend_state", "1 for the state a backend is in.", labels=["backend", "state"]
        )
        published = GaugeMetricFamily(
            "lbctl_published_generation",
            "Generation of the list that a backend has acknowledged.",
            labels=["backend"],
        )
        for backend in backends:
            for each in State:
                state.add_metric([backend.name, each.value], int(each is backend.state))
            published.add_metric([backend.name], backend.published_generation)
        yield from (state, published)

    def _of_control(self) -> Iterator[Metric]:
        stats = self._stats
        yield GaugeMetricFamily(
            "lbctl_membership_generation",
            "Generation of the list of backends in rotation.",
            value=self._fleet.membership().generation,
        )
        age = GaugeMetricFamily(
            "lbctl_discovery_age_seconds", "Since the last complete look at the runtime."
        )
        if stats.discovery_synced_monotonic_s is not None:
            age.add_metric([], self._clock() - stats.discovery_synced_monotonic_s)
        yield age
        yield _counter(
            "lbctl_docker_events_total",
            "Events of the runtime, by action.",
            "action",
            stats.events,
        )
        yield HistogramMetricFamily(
            "lbctl_publish_duration_seconds",
            "From a new list to its acknowledgement by every backend in it.",
            buckets=_cumulative(stats.publish_buckets),
            sum_value=stats.publish_sum_s,
        )
        yield _counter(
            "lbctl_publish_failures_total",
            "Attempts to write a list that failed.",
            "backend",
            stats.publish_failures,
        )
        ejections = CounterMetricFamily(
            "lbctl_ejections_total",
            "Backends taken out for failing, by reason.",
            labels=["backend", "reason"],
        )
        for (name, reason), count in sorted(stats.ejections.items()):
            ejections.add_metric([name, reason], count)
        yield ejections
        if stats.guard is not None:
            yield from _of_guard(stats.guard)
        yield CounterMetricFamily(
            "lbctl_history_lost_total",
            "Events that are in no history, as it could not be written.",
            value=stats.history.lost,
        )
        yield GaugeMetricFamily(
            "lbctl_history_failing",
            "1 while the history cannot be written; all else goes on.",
            value=int(stats.history.state is HistoryState.FAILING),
        )

    def _of_workers(self) -> Metric:
        running = {each.name for each in self._traffic.processes() if each.role == "worker"}
        self._workers |= running
        up = {name: int(name in running) for name in self._workers}
        return _gauge("lbctl_worker_up", "1 for a worker that runs.", "worker", up)

    def _of_processes(self) -> Metric:
        times = {  # one that drains has the name of the one that took its place
            each.name: each.started_at.timestamp()
            for each in sorted(self._traffic.processes(), key=attrgetter("started_at"))
            if each.role != "draining"
        }
        return _gauge(
            "lbctl_process_start_time_seconds",
            "When a process of the lbs was started last, in unix seconds.",
            "process",
            times,
        )

    def _of_certificates(self) -> Metric:
        expiry = GaugeMetricFamily(
            "lbctl_tls_certificate_expiry_timestamp_seconds",
            "When a certificate that clients are shown expires, in unix seconds.",
            labels=["name"],
        )
        for certificate in self._traffic.certificates():
            expiry.add_metric([printable(certificate.name, 128)], certificate.not_after_s)
        return expiry


def _of_guard(counts: GuardCounts) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "lbctl_guard_requests_total", "Requests that the guard was sent.", value=counts.requests
    )
    # From the beginning, or the first of its kind would be no increase to whoever scrapes.
    refused = {**dict.fromkeys(REASONS, 0), **counts.refused}
    yield _counter(
        "lbctl_guard_refused_total", "Those of them it refused, by reason.", "reason", refused
    )


def registry(collector: LbCollector) -> CollectorRegistry:
    """A registry of this collector alone: nothing of the default one gets in."""
    own = CollectorRegistry(auto_describe=False)
    own.register(collector)
    return own


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=[label]), counts)


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=[label]), values)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, float]) -> Metric:
    for label, value in sorted(values.items()):
        family.add_metric([label], value)
    return family


def _by_name(backends: Iterable[BackendTraffic]) -> dict[str, list[BackendTraffic]]:
    grouped: dict[str, list[BackendTraffic]] = {}
    for backend in backends:
        grouped.setdefault(backend.name, []).append(backend)
    return grouped


def _sums(rows: Iterable[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]


def _cumulative(counts: Sequence[int]) -> list[tuple[str, float]]:
    return [(le, float(n)) for le, n in zip(_BOUNDS, accumulate(counts), strict=True)]
