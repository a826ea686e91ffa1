"""Results to show: two rounds, one kind of load, lbctl cheaper than HAProxy."""

from __future__ import annotations

from benchmarks.compare.results import Interpreter, Machine, Peer, Results, Run


def run(peer: str, number: int, cpu_us: float, *, scenario: str = "small", rate: int = 1000) -> Run:
    """One second of `rate` requests."""
    return Run(
        scenario, peer, number, "", rate, 1.0, rate * 100, 500, 2000, 3000,
        cpu_us * rate / 1e6, cpu_us * rate / 2e6,
    )  # fmt: skip


def results(runs: list[Run] | None = None) -> Results:
    if runs is None:
        runs = [
            run("lbctl", 1, 20.0), run("haproxy", 1, 25.0, rate=800),
            run("lbctl", 2, 30.0), run("haproxy", 2, 25.0, rate=800),
            run("caddy", 1, 400.0), run("caddy", 2, 400.0),
        ]  # fmt: skip
    return Results(
        day="2026-11-23",
        lbctl="0.1.0",
        machine=Machine("A CPU", 2, "Linux 6.18", 0.01),
        interpreter=Interpreter("CPython 3.11.7", "0.22.1", False, 80.0),
        rounds=2,
        seconds=1,
        proxy_cpu=1,
        load_cpus=[0],
        scenarios={"small": "45 bytes"},
        wrk={"small": "wrk http://PROXY:8080/list.txt"},
        wrk_version="4.1.0",
        backends="server { }\n",
        peers=[
            Peer("lbctl", "lbctl", "haproxy", "0.1.0", "PYTHON -m benchmarks.given"),
            Peer("haproxy", "HAProxy", "haproxy", "2.6.12", "haproxy", {"haproxy.cfg": "global\n"}),
            Peer("caddy", "Caddy & <co>", "haproxy"),
            Peer("envoy", "Envoy", "haproxy", left_out="envoy is not installed"),
        ],
        runs=runs,
    )
