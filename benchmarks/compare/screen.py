"""What the one who waits sees."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.compare.tables import left_out, lost_lines, scenario_table, targets_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.compare.results import Results
    from benchmarks.compare.tables import Table

_WIDE = 150  # so much the tables need; a pipe has no width of its own
_COLOURS = {"met": "green", "missed": "red"}


class Screen:
    """Progress and errors go to stderr, tables to stdout."""

    def __init__(self) -> None:
        out = Console()
        self._out = out if out.is_terminal else Console(width=_WIDE)
        self._err = Console(stderr=True)

    def fail(self, message: str) -> None:
        for line in message.splitlines():
            self._err.print(Text(line, style="bold red"), soft_wrap=True)

    def say(self, message: str) -> None:
        self._err.print(Text(message), soft_wrap=True)

    @contextlib.contextmanager
    def turns(self, total: int) -> Iterator[Callable[[str], None]]:
        """Within the block, each call says what comes next, of `total`."""
        columns = (
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        with Progress(*columns, console=self._err) as progress:
            task = progress.add_task("starting", total=total)
            begun = 0

            def next_turn(text: str) -> None:
                nonlocal begun
                progress.update(task, description=text, completed=begun)
                begun += 1

            yield next_turn
            progress.update(task, description="done", completed=total)

    def show(self, results: Results) -> None:
        for name, title in results.scenarios.items():
            self._table(title, scenario_table(results, name, brief=True))
        self._table("targets", targets_table(results))
        for line in [*left_out(results), *lost_lines(results.peers)]:
            self._out.print(Text(line))

    def _table(self, title: str, table: Table) -> None:
        shown = RichTable(title=title, title_justify="left", title_style="bold")
        for number, name in enumerate(table.header):
            shown.add_column(name, justify="right" if number else "left")
        for row in table.rows:
            shown.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
        self._out.print(shown)
        for note in table.notes:
            self._out.print(Text(f"  {note}", style="yellow"))
