"""What was promised, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.compare.figures import Turns, bytes_per_s, cpu_us, p99_ms, requests_per_s

if TYPE_CHECKING:
    from benchmarks.compare.figures import Metric, Spread
    from benchmarks.compare.results import Results


@dataclass(frozen=True, slots=True)
class Target:
    """`peer` shall have at most, or at least, `bound` times what `other` has."""

    text: str
    scenario: str
    peer: str
    other: str
    metric: Metric
    bound: float
    at_most: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ratio` is None if one of the two was not measured."""

    target: Target
    ratio: Spread | None

    @property
    def word(self) -> str:
        if self.ratio is None:
            return "not measured"
        value, bound = self.ratio.median, self.target.bound
        return "met" if (value <= bound if self.target.at_most else value >= bound) else "missed"


TARGETS = (
    Target("CPU a request, logs off, to HAProxy", "small", "lbctl", "haproxy", cpu_us, 1.0),
    Target("CPU a request, logs on, to HAProxy", "small", "lbctl-log", "haproxy-log", cpu_us, 1.1),
    Target("CPU a request, to Traefik", "small", "lbctl", "traefik", cpu_us, 0.4),
    Target("CPU a request, to Envoy", "small", "lbctl", "envoy", cpu_us, 0.4),
    Target("CPU a request, to Caddy", "small", "lbctl", "caddy", cpu_us, 0.25),
    Target("p99, logs off, to HAProxy", "small", "lbctl", "haproxy", p99_ms, 1.1),
    Target("p99, logs on, to HAProxy", "small", "lbctl-log", "haproxy-log", p99_ms, 1.1),
    Target(
        "bytes a second of 10 MiB, to HAProxy",
        "10m", "lbctl", "haproxy", bytes_per_s, 0.8, at_most=False,
    ),
    Target(
        "requests a second, each on a new connection, to HAProxy",
        "close", "lbctl", "haproxy", requests_per_s, 0.8, at_most=False,
    ),
)  # fmt: skip


def verdicts(results: Results) -> list[Verdict]:
    return [
        Verdict(
            target,
            Turns(results.runs, target.scenario).ratio(target.peer, target.other, target.metric),
        )
        for target in TARGETS
    ]
