"""docs/benchmarks/README.md: every figure, beside what was promised, and how to get it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.compare.tables import (
    NOTHING,
    left_out,
    lost_lines,
    processes_table,
    scenario_table,
    targets_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.compare.results import Peer, Results
    from benchmarks.compare.tables import Table

CHART = "cpu.svg"
RAW = "results.json"
NOTES = "notes.md"

_METHOD = """\
Three nginx processes with the same files are the backends of every proxy. A proxy has CPU
{proxy_cpu} for itself (`taskset`); wrk, the backends and what reads access logs share CPU {load}.
Each proxy runs on one thread or worker, with what lbctl does by default where it can: round
robin, health checks every 2 s, X-Forwarded-For, connections to backends kept open. All run at
the same time, and one after the other gets {seconds} s of load: {rounds} rounds, A B C, A B C.
Figures are medians of the rounds, in parentheses the lowest and the highest; a ratio is that to
HAProxy in the same round.

- **CPU a request** is user and system time of *all* processes of the proxy (`/proc/PID/stat`,
  threads included), divided by the requests that wrk saw answered. lbctl's are its supervisor,
  its controller and one worker.
- Rows with an access log are put in relation to HAProxy with its own. Both write it to a pipe
  that is read, as a container's output is; the lines are counted.
- Before and after the rounds of each kind of load a plain client checks every proxy's answers,
  byte by byte; that a posted body arrives whole; and that `Connection: close` closes. A round
  with an error of any kind counts for nothing and is listed.
- "lbctl" runs through `benchmarks/given.py`: the product whole, with its backends given instead
  of discovered, so that they are those of all. "lbctl up" is a stack with three backends of its
  own, as anybody starts it, to show that it makes no difference.
"""


def render(results: Results, *, notes: bool) -> str:
    """`notes`: whether there is a file of that name beside it, to be pointed at."""
    return "\n".join(_parts(results, notes=notes)) + "\n"


def _parts(results: Results, *, notes: bool) -> Iterator[str]:
    yield "# Benchmarks\n"
    yield (
        f"Written by `make bench` on {results.day}: lbctl {results.lbctl}. "
        f"The raw figures are in [{RAW}]({RAW})."
    )
    yield f"\n![CPU time a request, by proxy and kind of load]({CHART})"
    yield "\n## Targets\n"
    yield _markdown(targets_table(results))
    yield (
        "\nTwo more are measured by scripts of their own: `python -m benchmarks.slow_readers` (a "
        "worker that serves 100 slow readers of a 100 MiB file grows by less than 32 MiB) and "
        "`python -m benchmarks.idle_clients` (10,000 idle clients cost less than 6 KiB each)."
    )
    if notes:
        yield f"\nWhat was tried, and what profiles show, is in [{NOTES}]({NOTES})."
    for name, title in results.scenarios.items():
        table = scenario_table(results, name)
        yield f"\n## {title[:1].upper()}{title[1:]}\n"
        yield _markdown(table)
        yield from _list("Rounds that do not count:", table.notes)
    yield "\n## Which processes\n"
    yield "CPU a request in the first kind of load, and what of it is the busiest process's.\n"
    yield _markdown(processes_table(results))
    yield "\n## How it was measured\n"
    yield _METHOD.format(
        proxy_cpu=results.proxy_cpu,
        load=" and ".join(map(str, results.load_cpus)),
        seconds=results.seconds,
        rounds=results.rounds,
    ).rstrip()
    yield from _list("Left out:", left_out(results))
    yield from _list("Access logs:", lost_lines(results.peers))
    yield "\n## On what\n"
    yield _markdown_facts(results)
    yield "\n## Command lines\n"
    yield (
        "DIR is a directory of the proxy's own, TOOLS where `make bench` puts the peers, PROJECT "
        "this checkout, PYTHON the interpreter above and SITE-PACKAGES its libraries."
    )
    for name, command in results.wrk.items():
        yield f"\n{results.scenarios[name]}:\n\n    {command}"
    yield _details("the backends", "", {"nginx.conf": results.backends})
    for peer in results.peers:
        if peer.command:
            yield _details(_called(peer), peer.command, peer.files)


def _called(peer: Peer) -> str:
    return f"{peer.title} ({peer.version})" if peer.version else peer.title


def _list(title: str, items: Sequence[str]) -> Iterator[str]:
    """Nothing at all where there is no item."""
    if items:
        yield f"\n{title}\n"
        yield from (f"- {item}" for item in items)


def _markdown(table: Table) -> str:
    """Figures to the right."""
    lines = [
        "| " + " | ".join(table.header) + " |",
        "|---" + "|--:" * (len(table.header) - 1) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    return "\n".join(lines)


def _markdown_facts(results: Results) -> str:
    machine, python = results.machine, results.interpreter
    optimised = "with" if python.optimised else "without"
    facts = [
        ("CPU", f"{machine.cpu}, {machine.cpus} of them"),
        ("kernel", machine.kernel),
        ("time that the hypervisor gave to others", f"{machine.stolen:.1%}"),
        (
            "lbctl's interpreter",
            f"{python.version}, configured {optimised} --enable-optimizations (a distribution "
            f"may have optimised it by other means); a loop of a million steps takes it "
            f"{python.loop_ms:g} ms; uvloop {python.uvloop}",
        ),
        ("wrk", results.wrk_version or NOTHING),
    ]
    programs = {
        peer.title.partition(",")[0]: peer.version for peer in results.peers if peer.version
    }
    facts += programs.items()
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {fact} |" for name, fact in facts)])


def _details(title: str, command: str, files: dict[str, str]) -> str:
    """Folded away until somebody wants to know."""
    lines = [f"\n<details><summary>{title}</summary>"]
    if command:
        lines += ["\n```sh", command, "```"]
    for name, text in files.items():
        lines += [f"\n`{name}`:\n", "```", text.rstrip(), "```"]
    return "\n".join([*lines, "\n</details>"])
