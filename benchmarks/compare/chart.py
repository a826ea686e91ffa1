"""The bar chart: CPU time a request, one panel a scenario. SVG that is text all through, and
readable on light and on dark ground.
"""

from __future__ import annotations

from html import escape
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.compare.figures import Turns, cpu_us
from benchmarks.compare.tables import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.compare.figures import Spread
    from benchmarks.compare.results import Results

_WIDTH = 880
_COLUMNS = 2
_PANEL = 430
_TOP = 58  # above the first panel: the title
_HEAD = 30  # of a panel: its title
_STEP = 22  # from bar to bar
_BAR = 14
_LABELS = 134  # left of the bars
_VALUES = 62  # right of them
_GAP = 26
_CLIPPED_AT = 8.0  # times the median: one giant shall not make all others look alike
_OURS = "lbctl"

_STYLE = """\
    text { font: 12px system-ui, sans-serif; fill: #1f2328; }
    .title { font-size: 16px; font-weight: 600; }
    .panel { font-weight: 600; }
    .quiet { fill: #59636e; }
    .bar { fill: #9aa4b0; }
    .ours { fill: #0969da; }
    .spread { stroke: #1f2328; stroke-width: 1; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .quiet { fill: #9198a1; }
      .bar { fill: #656c76; }
      .ours { fill: #4493f8; }
      .spread { stroke: #e6edf3; }
    }
"""


def limit(values: Sequence[float]) -> float:
    """What the longest bar stands for; larger values are cut off there."""
    bound = median(values) * _CLIPPED_AT
    return max((value for value in values if value <= bound), default=bound)


def render(results: Results) -> str:
    """The whole document."""
    panels: list[str] = []
    column_y = [_TOP] * _COLUMNS
    column = 0
    for name, title in results.scenarios.items():
        bars = _bars(results, name)
        if not bars:
            continue
        x, y = column * (_WIDTH - _PANEL), column_y[column]
        panels += _panel(title, bars, x, y)
        column_y[column] += _HEAD + _STEP * len(bars) + _GAP
        column = (column + 1) % _COLUMNS
        if column == 0:  # rows of panels begin at one height
            column_y = [max(column_y)] * _COLUMNS
    height = max(column_y)
    inner = "\n".join(panels)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" \
height="{height}" role="img" aria-label="CPU time a request, by proxy and kind of load">
  <style>
{_STYLE}  </style>
  <text class="title" x="0" y="18">CPU time a request</text>
  <text class="quiet" x="0" y="38">median of the rounds ({results.rounds}), shorter is better; the \
thin line goes from the lowest to the highest round; a torn bar is longer than there is room</text>
{inner}
</svg>
"""


def _bars(results: Results, scenario: str) -> list[tuple[str, str, Spread]]:
    """Name, title and cost of those that have one."""
    turns = Turns(results.runs, scenario)
    found = ((peer, turns.spread(peer.name, cpu_us)) for peer in results.peers)
    return [(peer.name, peer.title, cost) for peer, cost in found if cost is not None]


def _panel(title: str, bars: Sequence[tuple[str, str, Spread]], x: int, y: int) -> list[str]:
    most = limit([cost.median for _, _, cost in bars])
    large = most >= 1000
    unit, scale = ("ms", 1e-3) if large else ("µs", 1.0)
    room = _PANEL - _LABELS - _VALUES
    lines = [f'  <text class="panel" x="{x}" y="{y + 12}">{escape(title)}</text>']
    for row, (name, label, cost) in enumerate(bars):
        top = y + _HEAD + row * _STEP - 6
        middle = top + _BAR / 2
        base = y + _HEAD + row * _STEP + 5
        left = x + _LABELS
        kind = "ours" if name.startswith(_OURS) else "bar"
        lines.append(f'  <text x="{left - 8}" y="{base}" text-anchor="end">{escape(label)}</text>')
        if cost.median > most:
            lines.append(f'  <path class="{kind}" d="{_torn(left, top, room)}"/>')
            end = float(room)
        else:
            width = room * cost.median / most
            lines.append(
                f'  <rect class="{kind}" x="{left}" y="{top}" width="{width:.1f}" '
                f'height="{_BAR}" rx="2"/>'
            )
            low, high = (min(room, room * value / most) for value in (cost.low, cost.high))
            end = max(width, high)
            if high - low > 1:
                lines.append(
                    f'  <line class="spread" x1="{left + low:.1f}" y1="{middle}" '
                    f'x2="{left + high:.1f}" y2="{middle}"/>'
                )
        text = f"{number(cost.median * scale)} {unit}"
        lines.append(f'  <text x="{left + end + 6:.1f}" y="{base}">{text}</text>')
    return lines


def _torn(left: int, top: int, width: int) -> str:
    """A bar with a ragged end."""
    right, quarter = left + width, _BAR / 4
    teeth = " ".join(f"l{-5 if tooth % 2 else 5} {quarter}" for tooth in range(4))
    return f"M{left} {top}H{right - 5}{teeth}H{left}Z"
