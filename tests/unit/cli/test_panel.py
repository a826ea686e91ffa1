"""What `status --watch` draws: whatever the terminal's size, it fits."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from lbctl.cli.client import HealingRow, ProcessRow
from lbctl.cli.meter import Pulse
from lbctl.cli.panel import Size, panel
from lbctl.model import State
from tests.unit.cli.test_tables import NOW, rollout_row, row, status

if TYPE_CHECKING:
    from lbctl.cli.client import Status

BUSY = Pulse(1234.56, 0.0, 0.0008, 0.0042)


def drawn(
    view: Status,
    width: int = 100,
    height: int = 24,
    *,
    pulse: Pulse = BUSY,
    notes: tuple[str, ...] = (),
    plain: bool = False,
    colour: bool = False,
) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=width, height=height, markup=False, force_terminal=colour,
        color_system="standard" if colour else None,
    )  # fmt: skip
    size = Size(width, height, plain=plain)
    console.print(panel(view, pulse, [0.0, 5.0, 10.0], "http://127.0.0.1:8080", NOW, size, notes))
    return out.getvalue()


def many(count: int, state: State = State.UP) -> list[object]:
    return [row(name=f"{state.value}-{n}", state=state.value) for n in range(1, count + 1)]


def test_the_summary() -> None:
    lines = drawn(status(row())).splitlines()
    assert lines[0].startswith("shop on local, http://127.0.0.1:8080: 1 in rotation")
    assert lines[1] == "1234.6 req/s  0.00 % failed  p50 0.8 ms  p99 4.2 ms  ▁▄█"
    assert lines[4].split() == [
        "backend", "ip", "state", "for", "in", "flight", "req/s", "p99", "ms", "list", "why",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(None, "req/s  p50"), (0.0, "0.00 % failed"), (0.00001, "<0.01 % failed"),
     (0.0215, "2.15 % failed"), (1.0, "100.00 % failed")],
)  # fmt: skip
def test_failures(ratio: float | None, text: str) -> None:
    assert text in drawn(status(row()), pulse=Pulse(1.0, ratio, 0.1, 0.1))


def test_who_is_in_trouble_stands_first_and_else_the_names_go_on() -> None:
    rows = [
        row(name="a", state="up"), row(name="b", state="joining"), row(name="c", state="down"),
        row(name="d", state="up"), row(name="e", state="ejected"), row(name="f", state="invalid"),
        row(name="g", state="draining"), row(name="h", state="probing"),
        row(name="i", state="enrolling"), row(name="j", state="another day's"),
    ]  # fmt: skip
    lines = drawn(status(*rows)).splitlines()
    names = [line.split()[0] for line in lines[5:]]
    assert names == ["j", "c", "e", "f", "g", "h", "i", "b", "a", "d"]


def test_those_without_a_line_are_counted() -> None:
    rows = [*many(30), row(name="sick", state="down"), row(name="tired", state="draining")]
    lines = drawn(status(*rows), height=12).splitlines()  # type: ignore[arg-type]
    assert len(lines) == 12
    assert [line.split()[0] for line in lines[5:]] == [
        "sick", "tired", "up-1", "up-2", "up-3", "up-4", "and",
    ]  # fmt: skip
    assert lines[-1] == "and 26 more: 26 up"


def test_as_many_as_fit_are_not_counted() -> None:
    lines = drawn(status(*many(7)), height=12).splitlines()  # type: ignore[arg-type]
    assert len(lines) == 12
    assert lines[-1].startswith("up-7")


@pytest.mark.parametrize(
    ("width", "there", "gone"),
    [
        (110, ["ip", "for", "list", "why"], []),
        (72, ["backend", "state", "why", "ip", "for"], ["req/s", "list"]),
        (40, ["backend", "state", "why"], ["ip", "for", "list"]),
        (24, ["backend", "state"], ["ip", "why"]),
    ],
)
def test_columns_go_where_it_is_narrow(width: int, there: list[str], gone: list[str]) -> None:
    lines = drawn(status(row(reason="its checks fail: answered 503")), width).splitlines()
    headings = lines[4].split()
    assert all(title in headings for title in there)
    assert not any(title in headings for title in gone)
    assert all(len(line) <= width for line in lines)


def test_processes_are_one_line_with_what_was_restarted() -> None:
    def process(name: str, role: str, restarts: int) -> ProcessRow:
        return ProcessRow(
            lb="", role=role, name=name, pid=1, restarts=restarts, started_at="2026-11-22T09:00:00Z"
        )

    view = status(row())
    view["processes"] = [
        process("controller", "controller", 0), process("worker-0", "worker", 2),
        process("worker-1", "worker", 0),
    ]  # fmt: skip
    assert "1 controller, 2 workers; restarted: worker-0 2x" in drawn(view).splitlines()


def test_notes_and_what_goes_on_take_lines_from_the_backends() -> None:
    view = status(*many(30))  # type: ignore[arg-type]
    view["rollout"] = rollout_row(message="\n".join(f"line {n}" for n in range(20)), state="failed")
    view["healing"] = HealingRow(state="gave up", message="5 in a row")
    text = drawn(view, height=16, notes=("no answer for 3 s",))
    lines = text.splitlines()
    assert lines[1] == "no answer for 3 s"
    assert lines[2].startswith("rollout 2 to web:2: failed")
    assert len(lines) == 16


def test_colours_go_by_state() -> None:
    view = status(row(name="a", state="up"), row(name="b", state="down"))
    text = drawn(view, colour=True)
    assert "\x1b[32mup" in text
    assert "\x1b[1;31mdown" in text
    assert "\x1b" not in drawn(view)


def test_without_unicode_there_is_none() -> None:
    view = status(row(name="n" * 60, reason="r" * 200))
    assert drawn(view, 70, plain=True).isascii()
    assert "…" in drawn(status(row(reason="r" * 200)), 70)


def test_hostile_names_do_not_reach_the_terminal() -> None:
    text = drawn(status(row(name="\x1b[2Jx", reason="\x07\r", state="\x1b[31m")), notes=("\x1b",))
    assert not set("\x1b\x07\r") & set(text)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(20, 200),
    height=st.integers(1, 40),
    count=st.integers(0, 50),
    reason=st.text(max_size=80),
    plain=st.booleans(),
)
def test_it_always_fits(width: int, height: int, count: int, reason: str, plain: bool) -> None:
    rows = [row(name=f"shop-backend-{n}", reason=reason) for n in range(count)]
    lines = drawn(status(*rows), width, height, plain=plain).split("\n")[:-1]
    assert len(lines) <= max(height, 6)
    assert all(cell_len(line) <= width for line in lines)
