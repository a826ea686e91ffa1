"""What the command line writes: results to standard output, everything else to standard error.

Spinners, bars and lines that change in place are for terminals; elsewhere, and on a dumb terminal,
the same facts come as plain lines. Nothing is coloured there, nor with NO_COLOR. Text from outside
never reaches the terminal raw, and is never read as rich's markup.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from lbctl.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from rich.console import RenderableType
    from rich.status import Status as Spinner

_PIPE_WIDTH = 1_000  # a reader of a pipe cuts lines himself
_BAR_WIDTH = 24
_PLAIN_INTERVAL_S = 5.0  # between the lines of a progress that cannot change in place


def console(file: TextIO | None = None, *, stderr: bool = False) -> Console:
    """A console that takes text as it is."""
    made = Console(file=file, stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = _PIPE_WIDTH
    return made


class Screen:
    """Both streams of one run of the command."""

    def __init__(self, out: Console | None = None, err: Console | None = None) -> None:
        self.out = out or console()
        self.err = err or console(stderr=True)

    def say(self, line: str) -> None:
        """A line of the result."""
        self.out.print(Text(printable(line, 1_000)), soft_wrap=True)

    def show(self, result: RenderableType) -> None:
        """A table, or more of them; a reader of a pipe is spared the blanks that end its lines."""
        if self.out.is_terminal:
            self.out.print(result)
            return
        with self.out.capture() as drawn:
            self.out.print(result)
        self.out.file.writelines(f"{line.rstrip()}\n" for line in drawn.get().splitlines())
        self.out.file.flush()

    def document(self, value: object) -> None:
        """The whole result, for programs: never through rich, which would fold it."""
        self.out.file.write(json.dumps(value, indent=2) + "\n")
        self.out.file.flush()

    def tell(self, line: str, style: str = "") -> None:
        """A line beside the result: what is done and why, or an error."""
        self.err.print(Text(printable(line, 1_000), style=style), soft_wrap=True)

    @contextlib.contextmanager
    def steps(self, title: str) -> Iterator[Steps]:
        """Show that something goes on, until the block ends."""
        if not self.err.is_terminal or self.err.is_dumb_terminal:
            yield Steps(self, title, None)
            return
        with self.err.status(Text(title), spinner="line") as spinner:
            yield Steps(self, title, spinner)


class Steps:
    """The progress of one long operation; a `deploy.Progress`. Made by `Screen.steps`."""

    def __init__(self, screen: Screen, title: str, spinner: Spinner | None) -> None:
        self._screen = screen
        self._title = title
        self._spinner = spinner
        self._unicode = screen.err.encoding.startswith("utf")
        self._head = Text(f"{title}  ")  # what stands before a line of a log
        self._shown = ""
        self._shown_s = float("-inf")

    def note(self, text: str) -> None:
        """One step, in words: stays on the screen."""
        self._head = Text(f"{self._title}  ")
        self._screen.tell(text, "dim")

    def log(self, line: str) -> None:
        """One line of a build or a pull: the latest is seen beside the spinner, and the bar."""
        if self._spinner is not None:
            width = max(20, self._screen.err.width - len(self._head) - 4)
            self._spinner.update(Text.assemble(self._head, printable(line, width)))

    def part(self, done: float, total: float, text: str) -> None:
        """So much of the whole is done: a bar on a terminal, the text alone elsewhere."""
        if self._spinner is None:
            self.state(text)
            return
        filled = round(_BAR_WIDTH * min(1.0, max(0.0, done / total))) if total > 0 else 0
        full, rest = ("#", ".") if not self._unicode else ("━", "╌")
        bar = Text(f"{self._title}  ")
        bar.append(full * filled, style="green").append(rest * (_BAR_WIDTH - filled), style="dim")
        self._spinner.update(bar.append(f"  {printable(text)}"))
        self._head = Text.assemble(bar, "  ")

    def state(self, text: str) -> None:
        """How far it is: changes in place, or comes as a line now and then."""
        if self._spinner is not None:
            self._spinner.update(Text(f"{self._title}  {printable(text)}"))
            return
        now_s = time.monotonic()
        if text != self._shown and now_s - self._shown_s >= _PLAIN_INTERVAL_S:
            # The first state is where it starts from: nothing has happened yet.
            if self._shown:
                self._screen.tell(f"{self._title}: {text}")
            self._shown, self._shown_s = text, now_s
