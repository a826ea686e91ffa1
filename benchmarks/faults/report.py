"""docs/benchmarks/faults.md: what each disturbance cost each stack, and where a peer is better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.faults.disturbances import DISTURBANCES
from benchmarks.faults.ledger import SLOW_S
from benchmarks.support.client import ANSWER_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.faults.ledger import Figures
    from benchmarks.faults.results import Cell, Column, Results

RAW = "faults.json"
DOCUMENT = "faults.md"
OURS = "lbctl"
_NOT_RUN = ""
_NOTICEABLE_S = 0.25  # gaps that differ by less may be the machine's

_METHOD = """\
{connections} clients on connections that are kept, together {rate:,.0f} GETs a second at an even
pace, nothing is asked twice. Every cell has a stack of its own, fresh and settled: a balancer
and four nginx containers of the same image (three where it is scaled) on one Docker engine, two
seconds of load in which nothing may fail, then the disturbance, and load until {watch_s:g} s
after its begin, and for at least 6 s after its end. The clients reach each balancer through a
port published on 127.0.0.1, and each container of a stack has the restart policy
`unless-stopped`.

- **failed**: any answer but 200 of a backend, a refused or reset connection, or one that was
  closed before the whole answer. **hung**: no answer within {answer_s:g} s. What was in flight
  when it began counts. Where a row has fewer requests than another, its clients were waiting.
- **gap**: the longest time in which no client at all was answered. **slowest**: of the good
  answers. **trouble for**: from the begin until the last request was sent that failed, hung or
  took over {slow_s:g} s, so as long as clients met what was disturbed. A balancer that asks
  another backend at once hides from clients, and from this, how long it still tried. "More
  than" stands where there was trouble to the end of the load.
- The table shows the worst of the rounds, which is the one that lost most requests.
- **lbctl** is `lbctl up` with its defaults, which are two lbs behind one address: of these one is
  killed, of the peers, which are one process each, the only one. **Traefik** takes its backends
  from the engine, with health checks every 2 s that time out after 1 s, as lbctl's do; *advised*
  has its retry middleware (3 attempts), a dial timeout of 1 s and a response header timeout of 2 s.
  **HAProxy** has a static list of servers, `check inter 2s fall 3 rise 2` and `timeout check
  1s`; *advised* has `option redispatch`, `retry-on conn-failure empty-response
  response-timeout`, a connect timeout of 1 s and a server timeout of 2 s.
- A peer is scaled with `docker run` and `docker stop`. Its backends are replaced one by one:
  `docker run` of a new one, wait until it serves, `docker stop` of an old one. The reload of
  HAProxy is SIGUSR2 to its master, that of Traefik a restart of its container, since it has none
  for its static configuration (it takes the dynamic one without).
- Times are counted from the start of the command that disturbs, which takes some 0.1 s to act.
"""


def render(results: Results) -> str:
    return "\n".join(_parts(results)) + "\n"


def _parts(results: Results) -> Iterator[str]:
    columns = results.columns
    yield "# Faults\n"
    yield (
        "What is lost when something goes wrong, written by `make faults`. Raw figures: "
        f"[{RAW}]({RAW}).\n"
    )
    yield "## Requests lost\n"
    yield from _markdown(
        ["", *(column.title for column in columns.values())],
        [
            [one.title, *(brief(column.cells.get(one.name)) for column in columns.values())]
            for one in DISTURBANCES
        ],
    )
    yield from _where_better(columns)
    for one in DISTURBANCES:
        cells = {column.title: column.cells.get(one.name) for column in columns.values()}
        shown = {title: cell for title, cell in cells.items() if cell is not None}
        if shown:
            yield f"\n## {one.title[:1].upper()}{one.title[1:]}\n"
            yield from _details(shown)
    yield "\n## How it was measured\n"
    yield _METHOD.format(
        connections=results.conditions.connections,
        rate=results.conditions.rate_per_s,
        watch_s=results.conditions.watch_s,
        answer_s=ANSWER_S,
        slow_s=SLOW_S,
    )
    yield "## On what\n"
    machine = results.conditions.machine
    yield from _markdown(
        ["", ""],
        [
            ["CPU", f"{machine.cpu}, {machine.cpus} of them"],
            ["kernel", machine.kernel],
            ["Docker engine", results.conditions.engine],
            *([one.title, f"{one.version}, on {one.day}"] for one in columns.values()),
        ],
    )


def brief(cell: Cell | None) -> str:
    """A cell of the first table."""
    if cell is None:
        return _NOT_RUN
    if cell.worst is None:
        return "n/a" if cell.lacks else "no figures"
    return _lost(cell.worst)


def _lost(figures: Figures) -> str:
    if figures.hung:
        failed = figures.lost - figures.hung
        return f"{failed:,} and {figures.hung:,} hung" if failed else f"{figures.hung:,} hung"
    return f"{figures.lost:,}"


def _details(cells: dict[str, Cell]) -> Iterator[str]:
    rows, notes = [], []
    for title, cell in cells.items():
        if cell.worst is None:
            notes.append(f"- {title}: {cell.lacks or cell.problem}")
            continue
        worst = cell.worst
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in worst.failed.items())
        rows.append([
            title, str(len(cell.rounds)), f"{worst.requests:,}", kinds or "0", f"{worst.hung:,}",
            _time(worst.longest_gap_s), _time(worst.slowest_s), _trouble(worst),
        ])  # fmt: skip
    header = [
        "", "rounds", "requests", "failed", "hung", "gap", "slowest", "trouble for",
    ]  # fmt: skip
    if rows:
        yield from _markdown(header, rows)
    if rows and notes:
        yield ""
    yield from notes


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _trouble(figures: Figures) -> str:
    return (
        f"more than {_time(figures.trouble_s)}" if figures.unsettled else _time(figures.trouble_s)
    )


def _where_better(columns: dict[str, Column]) -> Iterator[str]:
    """The disturbances at which a peer lost less than lbctl, or as much in a shorter gap."""
    yield "\n## Where a peer does better\n"
    lines = [
        f"- {one.title}: {column.title}, {advantage}"
        for one in DISTURBANCES
        for name, column in columns.items()
        if name != OURS and (advantage := _advantage(columns, one.name, column))
    ]
    yield from lines or ["Nowhere in this table."]


def _advantage(columns: dict[str, Column], disturbance: str, peer: Column) -> str:
    """In what the peer is better there; "" if in nothing, or if one of the two was not run."""
    mine, his = _worst(columns.get(OURS), disturbance), _worst(peer, disturbance)
    if mine is None or his is None:
        return ""
    if his.lost < mine.lost:
        return f"{_lost(his)} lost to lbctl's {_lost(mine)}"
    if his.lost == mine.lost and his.longest_gap_s + _NOTICEABLE_S < mine.longest_gap_s:
        return f"a gap of {_time(his.longest_gap_s)} to lbctl's {_time(mine.longest_gap_s)}"
    if his.lost == mine.lost and his.slowest_s + _NOTICEABLE_S < mine.slowest_s:
        return f"its slowest answer after {_time(his.slowest_s)}, lbctl's {_time(mine.slowest_s)}"
    return ""


def _worst(column: Column | None, disturbance: str) -> Figures | None:
    cell = column.cells.get(disturbance) if column else None
    return cell.worst if cell else None


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Figures to the right."""
    yield f"| {' | '.join(header)} |"
    yield "|---" + "|--:" * (len(header) - 1) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
