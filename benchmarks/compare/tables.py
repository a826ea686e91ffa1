"""The figures as rows of text, for the terminal and for the documents alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.compare.figures import (
    Turns,
    busiest_cpu_us,
    bytes_per_s,
    cpu_us,
    p50_ms,
    p99_ms,
    p999_ms,
    requests_per_s,
)
from benchmarks.compare.scenarios import SCENARIOS
from benchmarks.compare.targets import verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.compare.figures import Spread
    from benchmarks.compare.results import Peer, Results

NOTHING = "-"
_BULK = frozenset(scenario.name for scenario in SCENARIOS if scenario.bulk)


@dataclass(frozen=True, slots=True)
class Table:
    """The first column is text, the others are figures. `notes` stand below."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def number(value: float) -> str:
    """With three digits that say something, and no more than there are."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def shown(figure: Spread | None, scale: float = 1.0) -> str:
    """The median, and behind it the lowest and the highest where there are several."""
    if figure is None:
        return NOTHING
    low, high = number(figure.low * scale), number(figure.high * scale)
    text = number(figure.median * scale)
    return text if low == high else f"{text} ({low} - {high})"


def _median(figure: Spread | None, scale: float = 1.0) -> str:
    return NOTHING if figure is None else number(figure.median * scale)


def scenario_table(results: Results, scenario: str, *, brief: bool = False) -> Table:
    """One row for each proxy that took part. `brief`: what a terminal has room for, medians
    alone but for the one ratio that all is about.
    """
    figure = _median if brief else shown
    turns = Turns(results.runs, scenario)
    bulk = scenario in _BULK
    unit, rate, scale = ("MiB/s", bytes_per_s, 1 / (1 << 20)) if bulk else (
        "requests/s", requests_per_s, 1.0,
    )  # fmt: skip
    rows: list[list[str]] = []
    notes: list[str] = []
    for peer in (peer for peer in results.peers if peer.name in turns):
        reference = peer.reference
        rows.append(
            [
                peer.title,
                figure(turns.spread(peer.name, cpu_us), 1e-3 if bulk else 1.0),
                shown(turns.ratio(peer.name, reference, cpu_us)),
                figure(turns.spread(peer.name, rate), scale),
                figure(turns.ratio(peer.name, reference, rate)),
                figure(turns.spread(peer.name, p50_ms)),
                figure(turns.spread(peer.name, p99_ms)),
                figure(turns.ratio(peer.name, reference, p99_ms)),
                figure(turns.spread(peer.name, p999_ms)),
                f"{turns.sound(peer.name)}",
            ]
        )
        notes += [f"{peer.title}: {problem}" for problem in turns.problems(peer.name)]
    header = [
        "", f"CPU {'ms' if bulk else 'µs'} a request", "x HAProxy", unit, "x HAProxy",
        "p50 ms", "p99 ms", "x HAProxy", "p99.9 ms", "rounds",
    ]  # fmt: skip
    return Table(header, rows, notes)


def _ratio(figure: Spread | None) -> str:
    """One digit more, where a verdict hangs on it."""
    if figure is None:
        return NOTHING
    return f"{figure.median:.3f} ({figure.low:.3f} - {figure.high:.3f})"


def targets_table(results: Results) -> Table:
    rows = []
    for verdict in verdicts(results):
        target = verdict.target
        bound = f"{'at most' if target.at_most else 'at least'} {target.bound:g} x"
        rows.append([target.text, bound, _ratio(verdict.ratio), verdict.word])
    return Table(["", "target", "measured", ""], rows)


def processes_table(results: Results) -> Table:
    """Of those of whom one process does the proxying: how much of the CPU is the others'."""
    turns = Turns(results.runs, "small")
    rows = [
        [
            peer.title,
            shown(turns.spread(peer.name, cpu_us)),
            shown(turns.spread(peer.name, busiest_cpu_us)),
        ]
        for peer in results.peers
        if turns.spread(peer.name, cpu_us) is not None
    ]
    return Table(["", "all its processes, µs", "the busiest one, µs"], rows)


def left_out(results: Results) -> list[str]:
    """Who is missing, and why."""
    return [f"{peer.title}: {peer.left_out}" for peer in results.peers if peer.left_out]


def lost_lines(peers: Sequence[Peer]) -> list[str]:
    """What the access logs have of the requests."""
    return [
        f"{peer.title}: {peer.lines_per_request:.3f} lines a request"
        for peer in peers
        if peer.lines_per_request is not None
    ]
