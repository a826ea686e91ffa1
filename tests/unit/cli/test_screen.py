from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from lbctl.cli.screen import Screen, console


def screens() -> tuple[Screen, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Screen(console(out), console(err)), out, err


def test_results_and_remarks_go_apart() -> None:
    screen, out, err = screens()
    screen.say("serving")
    screen.tell("runtime: local")
    assert (out.getvalue(), err.getvalue()) == ("serving\n", "runtime: local\n")


def test_text_is_neither_markup_nor_control() -> None:
    screen, out, _ = screens()
    screen.say("[bold]x[/bold] :smile: \x1b[31m\r\x07")
    assert out.getvalue() == "[bold]x[/bold] :smile: ?[31m??\n"


def test_long_lines_are_not_folded() -> None:
    screen, out, _ = screens()
    screen.say("word " * 150)
    assert out.getvalue().count("\n") == 1


def test_steps_in_a_pipe_are_plain_lines() -> None:
    screen, _, err = screens()
    with screen.steps("starting") as steps:
        steps.note("building lbctl-nginx")
        steps.log("Step 1/9")
        steps.state("0 of 3")
        steps.state("1 of 3")
    assert err.getvalue() == "building lbctl-nginx\n"


def test_how_much_is_done_is_a_bar_on_a_terminal_and_a_text_elsewhere() -> None:
    drawn = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    terminal = Console(file=drawn, force_terminal=True, width=80, color_system=None, markup=False)
    with Screen(console(io.StringIO()), terminal).steps("backends") as steps:
        steps.part(1, 4, "1 of 4")
        assert steps._spinner is not None
        (shown,) = {str(steps._spinner.renderable.text)}
    assert shown == "backends  " + "━" * 6 + "╌" * 18 + "  1 of 4"
    screen, _, err = screens()
    with screen.steps("backends") as steps:
        steps.part(1, 0, "1 of 0")
    assert err.getvalue() == ""


def test_a_build_shows_its_bar_and_its_latest_line_on_one_row() -> None:
    drawn = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    terminal = Console(file=drawn, force_terminal=True, width=80, color_system=None, markup=False)
    with Screen(console(io.StringIO()), terminal).steps("starting") as steps:
        assert steps._spinner is not None
        steps.part(1, 4, "step 2 of 4")
        steps.log("gcc -c " + "x" * 100)
        bar, line = "starting  " + "━" * 6 + "╌" * 18 + "  step 2 of 4  ", "gcc -c "
        row = str(steps._spinner.renderable.text)
        assert row.startswith(bar + line)
        assert len(row) <= 80 - len("| ")
        steps.note("starting lbctl-pod")
        steps.log("next")
        assert str(steps._spinner.renderable.text) == "starting  next"


def test_steps_on_a_terminal_keep_the_notes() -> None:
    err = io.StringIO()
    terminal = Console(file=err, force_terminal=True, width=60, markup=False)
    with Screen(console(io.StringIO()), terminal).steps("backends in rotation") as steps:
        steps.note("building lbctl-nginx")
        steps.log("\x1b]0;owned\x07" + "x" * 500)
        steps.state("2 of 3")
    assert "building lbctl-nginx" in err.getvalue()
    assert "\x1b]0;" not in err.getvalue()


class Buffered(io.StringIO):
    """Shows what was flushed."""

    shown = ""

    def flush(self) -> None:
        self.shown = self.getvalue()


def test_a_table_on_a_pipe_comes_at_once_and_without_blanks_at_its_ends() -> None:
    out = Buffered()
    table = Table(box=None, show_header=False)
    table.add_row("a", "long")
    table.add_row("b", "")
    Screen(console(out)).show(table)
    assert out.shown == " a  long\n b\n"
