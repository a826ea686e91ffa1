"""The figures as a page of docs/benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.compare.tables import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from benchmarks.capacity.results import Crowd, Results

_MIB = 1 << 20
_NOT_FINAL = """\
**These are not figures to plan by**: a short run (`--quick`), to see that the script works.
"""


def text(results: Results) -> str:
    """The whole page."""
    return "\n".join(_lines(results))


def _lines(results: Results) -> Iterator[str]:
    yield "# Capacity: the figures"
    yield ""
    yield (
        f"Written by `make capacity` on {results.day}: lbctl {results.lbctl}. What they mean is in "
        "[capacity](../capacity.md); the raw figures are in [capacity.json](capacity.json)."
    )
    yield ""
    if results.quick:
        yield _NOT_FINAL
    yield from _carried(results)
    yield from _resting(results)
    yield from _crowds(results)
    yield from _machine(results)


def _carried(results: Results) -> Iterator[str]:
    yield "## One worker, one CPU"
    yield ""
    yield (
        f"The list of three backends (45 bytes), from wrk with 64 connections; the median of "
        f"{results.rounds} rounds of {results.seconds} s. CPU is that of all the lb's processes."
    )
    yield ""
    yield from _table(
        ("load", "requests/s", "CPU us a request", "p50 ms", "p99 ms"),
        (
            (
                one.load, number(one.requests_per_s), number(one.cpu_us), number(one.p50_ms),
                number(one.p99_ms),
            )
            for one in results.carried
        ),
    )  # fmt: skip


def _resting(results: Results) -> Iterator[str]:
    yield "## An idle client"
    yield ""
    yield "Growth of the worker's resident memory; what the kernel holds for a socket is beside it."
    yield ""
    rows = ((one.kind, f"{one.clients:,}", number(one.bytes_each)) for one in results.resting)
    yield from _table(("client", "at a time", "bytes each"), rows)


def _crowds(results: Results) -> Iterator[str]:
    yield "## By the number of backends"
    yield ""
    yield (
        "All backends are addresses of one nginx, which checks no token. Memory is read after 3 s "
        "of load, the controller's CPU before it; a new list is made by drain and undrain, and "
        "timed until every backend has taken it."
    )
    yield ""
    yield from _table(
        (
            "backends", "all in rotation after, s", "worker MiB", "controller MiB",
            "controller, % of a CPU", "new list on all, ms: median", "worst",
        ),
        (_crowd(one) for one in results.crowds),
    )  # fmt: skip
    first, last = results.crowds[0], results.crowds[-1]
    more = last.backends - first.backends
    if more:
        worker = (last.worker_bytes - first.worker_bytes) / more / 1024
        controller = (last.controller_bytes - first.controller_bytes) / more / 1024
        yield (
            f"So a backend costs {number(worker)} KiB of each worker and {number(controller)} KiB "
            "of the controller."
        )
        yield ""


def _crowd(one: Crowd) -> Sequence[str]:
    return (
        f"{one.backends:,}",
        number(one.ready_s),
        number(one.worker_bytes / _MIB),
        number(one.controller_bytes / _MIB),
        number(one.checking * 100),
        number(one.publish_median_s * 1000),
        number(one.publish_worst_s * 1000),
    )


def _machine(results: Results) -> Iterator[str]:
    machine, python = results.machine, results.interpreter
    optimised = "with" if python.optimised else "without"
    yield "## On what"
    yield ""
    yield from _table(
        ("", ""),
        (
            ("CPU", f"{machine.cpu}, {machine.cpus} of them"),
            ("kernel", machine.kernel),
            ("Python", f"{python.version}, {optimised} --enable-optimizations"),
            ("uvloop", python.uvloop),
            ("a loop of pure Python", f"{python.loop_ms} ms"),
            ("load average before", f"{results.busy:.2f}"),
            ("CPU time given to others by the hypervisor", f"{machine.stolen:.1%}"),
        ),
        figures=False,
    )


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, figures: bool = True
) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|---|{('--:|' if figures else '---|') * (len(header) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
