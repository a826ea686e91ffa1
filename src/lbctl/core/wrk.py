"""What wrk says at its end (`wrk --latency`), read strictly: a line that is not known is an error,
so that no figure is made of half an output.

    Running 10s test @ http://127.0.0.1:8080/
      2 threads and 64 connections
      Thread Stats   Avg      Stdev     Max   +/- Stdev
        Latency     6.32ms    4.61ms  78.91ms   88.60%
        Req/Sec     5.42k     1.05k    8.05k    70.50%
      Latency Distribution
         50%    5.52ms
         ...
      108100 requests in 10.02s, 29.91MB read
      Socket errors: connect 0, read 0, write 0, timeout 3
      Non-2xx or 3xx responses: 12
    Requests/sec:  10788.53
    Transfer/sec:      2.98MB

The two lines of errors are there only where there were some.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES: Final = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_NUMBER: Final = r"(\d+\.\d+|\d+)"
_TIME: Final = rf"{_NUMBER}(us|ms|s|m|h)"
_SIZE: Final = rf"{_NUMBER}([KMGT]?B)"
# A share of nothing is no number, and its sign is C's affair.
_SHARE: Final = r"(?:\d+\.\d+|-?nan)%"

_IGNORED: Final = (
    r"Running \S+ test @ \S+",
    r"  \d+ threads and \d+ connections",
    r"  Thread Stats   Avg      Stdev     Max   \+/- Stdev",
    rf"    Req/Sec +{_NUMBER}[kMGTP]? +{_NUMBER}[kMGTP]? +{_NUMBER}[kMGTP]? +{_SHARE}",
    r"  Latency Distribution",
    rf"Transfer/sec: +{_SIZE}",
)
_LATENCY: Final = re.compile(rf"    Latency +{_TIME} +{_TIME} +{_TIME} +{_SHARE}")
_PERCENTILE: Final = re.compile(rf"     (50|75|90|99)% +{_TIME}")
_REQUESTS: Final = re.compile(rf"  (\d+) requests in {_TIME}, +{_SIZE} read")
_SOCKETS: Final = re.compile(
    r"  Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)"
)
_STATUSES: Final = re.compile(r"  Non-2xx or 3xx responses: (\d+)")
_RATE: Final = re.compile(rf"Requests/sec: +{_NUMBER}")


@dataclass(frozen=True, slots=True)
class Errors:
    """How many of each kind; `status` are answers that are not 2xx or 3xx."""

    connect: int = 0
    read: int = 0
    write: int = 0
    timeout: int = 0
    status: int = 0

    @property
    def total(self) -> int:
        return self.connect + self.read + self.write + self.timeout + self.status


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk counted. `percentiles_s` is by 50, 75, 90 and 99; `requests` are those answered,
    whatever the status.
    """

    requests: int
    took_s: float
    read_bytes: float
    requests_per_second: float
    mean_s: float
    slowest_s: float
    percentiles_s: dict[int, float]
    errors: Errors


def parse(output: str) -> Load:
    """Raises ValueError with the line that is not wrk's, or what is missing."""
    found: dict[str, re.Match[str]] = {}
    percentiles_s: dict[int, float] = {}
    for line in map(str.rstrip, output.splitlines()):
        if percentile := _PERCENTILE.fullmatch(line):
            percentiles_s[int(percentile[1])] = _seconds(percentile[2], percentile[3])
        elif known := _known(line):
            found[known[0]] = known[1]
        elif line and not any(re.fullmatch(each, line) for each in _IGNORED):
            raise ValueError(f"not a line of wrk's: {line[:80]!r}")
    missing = [name for name in ("latency", "requests", "rate") if name not in found]
    if missing or len(percentiles_s) != 4:
        raise ValueError(f"wrk did not say: {', '.join(missing) or 'all percentiles'}")
    latency, requests = found["latency"], found["requests"]
    return Load(
        requests=int(requests[1]),
        took_s=_seconds(requests[2], requests[3]),
        read_bytes=float(requests[4]) * _BYTES[requests[5]],
        requests_per_second=float(found["rate"][1]),
        mean_s=_seconds(latency[1], latency[2]),
        slowest_s=_seconds(latency[5], latency[6]),
        percentiles_s=percentiles_s,
        errors=_errors(found),
    )


_LINES: Final = {
    "latency": _LATENCY,
    "requests": _REQUESTS,
    "sockets": _SOCKETS,
    "statuses": _STATUSES,
    "rate": _RATE,
}


def _known(line: str) -> tuple[str, re.Match[str]] | None:
    for name, pattern in _LINES.items():
        if match := pattern.fullmatch(line):
            return name, match
    return None


def _errors(found: dict[str, re.Match[str]]) -> Errors:
    sockets = found["sockets"].groups() if "sockets" in found else ("0",) * 4
    connect, read, write, timeout = map(int, sockets)
    status = int(found["statuses"][1]) if "statuses" in found else 0
    return Errors(connect, read, write, timeout, status)


def _seconds(number: str, unit: str) -> float:
    return float(number) * _SECONDS[unit]
