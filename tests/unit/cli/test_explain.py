"""`lbctl explain` as a person types it."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from lbctl.cli import explain
from lbctl.cli.app import run
from lbctl.cli.client import BackendRow
from lbctl.cli.screen import Screen, console
from lbctl.cli.session import Session
from lbctl.cli.tables import utc_now
from lbctl.errors import UnsupportedError
from lbctl.model import EjectionStatus, Failure, State
from tests.unit.admin.fakes import backend_status
from tests.unit.cli.test_fleet import row

if TYPE_CHECKING:
    from tests.unit.cli.machine import Machine


def test_it_says_what_why_and_what_would_change_it(machine: Machine) -> None:
    machine.type("up")
    machine.lb.fleet.rows = [
        backend_status("b-1", state=State.ENROLLING, reason="no list: it refused the token")
    ]
    typed = machine.type("explain", "b-1")
    assert (typed.status, typed.err) == (0, "")
    lines = typed.out.splitlines()
    assert lines[0].startswith("b-1 (127.1.0.1) is enrolling for ")
    assert lines[1].startswith("what     out of rotation, on its way in")
    assert lines[2] == "why      it does not take the list: it refused the token"
    assert lines[3].startswith("changes  one list that it takes")
    assert lines[-1].startswith("seen     last check: passed; 0 in flight, 0.0 req/s; list 7")
    assert all(line == line.rstrip() for line in lines)


def test_an_ejection_is_read_from_the_status(machine: Machine) -> None:
    machine.type("up")
    ends_at = utc_now() + timedelta(seconds=50)
    ejection = EjectionStatus(Failure.TIMEOUT, ends_at, lasts_s=60.0, times=2, passes=0)
    machine.lb.fleet.rows = [backend_status("b-1", state=State.EJECTED, ejection=ejection)]
    out = machine.type("explain", "b-1").out
    assert "the 2nd time, for 60 s" in out
    assert f"it is ejected until {ends_at:%H:%M:%S} UTC, in " in out


def test_json_is_one_document(machine: Machine) -> None:
    machine.type("up")
    typed = machine.type("explain", "b-2", "--json")
    document = json.loads(typed.out)
    assert list(document) == ["backend", "in_rotation", "what", "why", "changes"]
    assert document["backend"]["name"] == "b-2"
    assert document["in_rotation"] is True
    assert document["changes"][0] == "lbctl drain b-2 takes it out"


@pytest.mark.parametrize(("name", "status"), [("nobody", 1), ("id-", 2)])
def test_who_cannot_be_meant_is_one_line(machine: Machine, name: str, status: int) -> None:
    machine.type("up")
    typed = machine.type("explain", name)
    assert (typed.status, typed.out, len(typed.err.splitlines())) == (status, "", 1)


def test_settings_of_the_lb_count_and_not_those_of_the_caller(machine: Machine) -> None:
    machine.type("up")
    machine.lb.reloader.present = {"fall": 9, "rise": 4, "unknown": 1}
    assert "9 failed checks in a row" in machine.type("explain", "b-1").out


def test_names_of_others_do_not_steer_the_terminal(machine: Machine) -> None:
    machine.type("up")
    machine.lb.fleet.rows = [
        backend_status("b\x1b[31m", state=State.DRAINING, reason="\x1b]0;x\x07", id_="x")
    ]
    typed = machine.type("explain", "x")
    assert typed.status == 0
    assert not set("\x1b\x07") & set(typed.out)


def test_a_narrow_terminal_is_not_overrun(machine: Machine) -> None:
    machine.type("up")
    out = io.StringIO()
    screen = Screen(
        Console(file=out, width=50, force_terminal=True, color_system=None, markup=False),
        console(io.StringIO()),
    )
    assert run(["explain", "b-1"], Session(screen=screen, runtimes=machine)) == 0
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 50 for line in lines[1:]), lines
    assert sum(line.startswith(" " * 9) for line in lines) > 2


@pytest.mark.parametrize(
    "changes",
    [{"cause": "spell"}, {"state": "gone"}, {"since": ""}, {"checks": None}, {"ejection": {}}],
)
def test_a_row_of_another_version(changes: dict[str, Any]) -> None:
    good = row("b-1", "id", "127.1.0.1")
    good["since"] = "2026-11-22T10:00:00.123Z"
    assert explain.backend_of(good).name == "b-1"
    with pytest.raises(UnsupportedError, match="lbctl upgrade"):
        explain.backend_of(BackendRow(**{**good, **changes}))  # type: ignore[typeddict-item]


def test_a_row_of_before_causes_were_told() -> None:
    old = {name: value for name, value in row("b-1", "id", "").items() if name != "cause"}
    with pytest.raises(UnsupportedError):
        explain.backend_of(old)  # type: ignore[arg-type]
