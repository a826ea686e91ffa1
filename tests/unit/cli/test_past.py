"""`lbctl history` and `lbctl events` as a person types them."""

from __future__ import annotations

import json
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.cli import past
from lbctl.cli.client import AdminClient, EventRow, NoAnswerError
from lbctl.core.history import Event, Kind
from lbctl.errors import OperationError
from tests.support.deadlines import scaled, until
from tests.unit.admin.fakes import WHEN
from tests.unit.admin.test_past import listed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.unit.cli.machine import Machine


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two hours east of Greenwich."""
    monkeypatch.setenv("TZ", "EAST-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def stack(machine: Machine) -> Machine:
    machine.type("up")
    machine.lb.journal.kept.clear()  # that it was scaled
    machine.lb.journal.listed = [listed(1, "b-1"), listed(2, "b-1", "b-2"), listed(3)]
    for one in ("b-1", "b\x1b[31m-2\n"):
        machine.lb.journal.record(Event(Kind.DOWN, "its checks\rfail", one))
    return machine


def test_the_lists(stack: Machine) -> None:
    typed = stack.type("history")
    assert typed.status == 0
    head, *rows = typed.out.splitlines()
    assert head.split() == ["since", "list", "backends", "what", "changed"]
    assert [row.split() for row in rows] == [
        ["2026-11-22", "12:01:00.123", "1", "1", "+b-1"],
        ["2026-11-22", "12:02:00.123", "2", "2", "+b-1,", "+b-2"],
        ["2026-11-22", "12:03:00.123", "3", "0"],
    ]
    assert stack.lb.journal.asked[-1].limit == 50


def test_since_and_until_are_on_this_machine_s_clock(stack: Machine) -> None:
    typed = stack.type("history", "--since", "2026-11-22 12:02", "--until", "2026-11-22 12:02:30")
    assert typed.status == 0
    assert [line.split()[2] for line in typed.out.splitlines()[1:]] == ["2"]
    typed = stack.type("history", "--since", "2027-01-01")
    assert (typed.status, typed.out, typed.err) == (0, "", "no list changed then\n")


def test_page_after_page(stack: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "_PAGE", 2)
    typed = stack.type("history", "--since", "2026-01-01", "--json")
    document = json.loads(typed.out)
    assert [one["generation"] for one in document["generations"]] == [1, 2, 3]
    assert document["generations"][1]["members"][1]["ip"] == "10.0.0.1"
    monkeypatch.setattr(past, "_MOST", 1)
    typed = stack.type("history", "--since", "2026-01-01", "--json")
    assert len(json.loads(typed.out)["generations"]) == 2
    assert typed.err == "there may be more: go on with --since 2026-11-22T10:02:00.123Z\n"
    assert len(stack.type("events", "--since", "2026-01-01").out.splitlines()) == 2


def test_who_was_in_rotation_then(stack: Machine) -> None:
    typed = stack.type("history", "--at", "2026-11-22 12:02:30")
    assert typed.status == 0
    headline, _, head, *rows = typed.out.splitlines()
    assert headline == "list 2, valid since 2026-11-22 12:02:00.123: 2 backends"
    assert head.split() == ["backend", "ip", "in", "rotation", "since"]
    assert [row.split() for row in rows] == [
        ["b-1", "10.0.0.0", "2026-11-22", "12:00:00.123"],
        ["b-2", "10.0.0.1", "2026-11-22", "12:00:00.123"],
    ]
    typed = stack.type("history", "--at", "2026-11-22 12:02:30", "--json")
    assert [one["generation"] for one in json.loads(typed.out)["generations"]] == [2]


def test_before_anything_is_known(stack: Machine) -> None:
    typed = stack.type("history", "--at", "2020-01-01")
    assert (typed.status, typed.out) == (1, "")
    assert typed.err == "lbctl: no list is known of 2020-01-01 00:00:00.000: see lbctl history\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("history", "--since", "soon"),
        ("history", "--until", "\x1b"),
        ("history", "--at", ""),
        ("events", "--since", "10"),
    ],
)
def test_nonsense_is_one_clear_line(stack: Machine, arguments: tuple[str, ...]) -> None:
    asked = len(stack.lb.journal.asked)
    typed = stack.type(*arguments)
    assert (typed.status, typed.out) == (2, "")
    assert typed.err.startswith(f"lbctl: {arguments[1]}: '")
    assert "is no time: 10:00," in typed.err
    assert len(typed.err.splitlines()) == 1
    assert len(stack.lb.journal.asked) == asked


def test_one_moment_or_a_span(stack: Machine) -> None:
    typed = stack.type("history", "--at", "5m", "--since", "1h")
    assert (typed.status, typed.err) == (
        2, "lbctl: --at is one moment: leave --since and --until out\n",
    )  # fmt: skip


def test_what_happened(stack: Machine) -> None:
    typed = stack.type("events")
    assert typed.status == 0
    first, second = typed.out.splitlines()
    assert first == "2026-11-22 12:00:00.123  down        b-1  its checks?fail"
    assert second == "2026-11-22 12:00:00.123  down        b?[31m-2?  its checks?fail"


def test_what_happened_for_programs(stack: Machine) -> None:
    lines = stack.type("events", "--since", "2026-01-01", "--json").out.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2]
    assert json.loads(lines[1])["subject"] == "b\x1b[31m-2\n"
    assert stack.type("events", "--since", "2027-01-01", "--json").out == ""


def test_no_stack(machine: Machine) -> None:
    for command in ("history", "events"):
        typed = machine.type(command)
        assert typed.status == 1
        assert "lbctl up" in typed.err


def test_a_history_that_cannot_be_read(stack: Machine) -> None:
    stack.lb.journal.error = OperationError("the history cannot be read now: disk I/O error")
    typed = stack.type("history")
    assert typed.status == 1
    assert typed.err == "lbctl: the history cannot be read now: disk I/O error\n"


def _stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written; past `count` lines the command is interrupted."""
    seen: list[str] = []

    def write(_screen: Any, line: str) -> None:
        seen.append(line)
        if len(seen) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(past, "_write", write)
    return seen


def test_what_happens(stack: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _stop_after(4, monkeypatch)

    def happen() -> None:
        until(lambda: stack.lb.journal.wakers)
        for name in ("b-3", "b-4"):
            event = Event(Kind.UP, "", name)
            stack.lb._loop.call_soon_threadsafe(stack.lb.journal.record, event)

    other = threading.Thread(target=happen)
    other.start()
    typed = stack.type("events", "-f", "--json")
    other.join(scaled(5))
    assert typed.status == 130
    assert typed.err == "interrupted\n"
    assert [json.loads(line)["subject"] for line in seen] == ["b-1", "b\x1b[31m-2\n", "b-3", "b-4"]


def test_a_controller_that_goes_is_waited_for(
    stack: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams that end, break off or cannot be had; nothing is told twice."""
    seen = _stop_after(5, monkeypatch)
    asked: list[int] = []

    async def follow(_client: AdminClient, after: int) -> AsyncIterator[EventRow]:
        asked.append(after)
        if len(asked) == 2:
            raise NoAnswerError("nobody answers")
        yield _row(after + 1)
        if len(asked) == 3:
            raise NoAnswerError("broke off")

    monkeypatch.setattr(AdminClient, "follow", follow)
    monkeypatch.setattr(past, "_RECONNECT_S", 0.001)
    assert stack.type("events", "-f", "--json").status == 130
    assert asked == [2, 3, 3, 4]
    assert [json.loads(line)["seq"] for line in seen] == [1, 2, 3, 4, 5]


def test_a_stack_that_is_gone_is_not_waited_for_for_ever(
    stack: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def follow(_client: AdminClient, after: int) -> AsyncIterator[EventRow]:
        for seq in (after,):
            if seq >= 0:
                raise NoAnswerError("nobody answers")
            yield _row(seq)

    monkeypatch.setattr(AdminClient, "follow", follow)
    monkeypatch.setattr(past, "_RECONNECT_S", 0.001)
    monkeypatch.setattr(past, "_SILENCE_S", 0.05)
    typed = stack.type("events", "-f")
    assert (typed.status, typed.err) == (1, "lbctl: nobody answers\n")


def _row(seq: int) -> EventRow:
    at = (WHEN + timedelta(seconds=seq)).isoformat()
    return EventRow(seq=seq, at=at, kind="up", subject="b", text="", data={})
