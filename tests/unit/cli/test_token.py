"""`lbctl token rotate` as a person types it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from lbctl.cli import token
from lbctl.cli.client import AdminClient, NoAnswerError
from lbctl.errors import OperationError

if TYPE_CHECKING:
    from tests.unit.cli.machine import Machine


def test_it_says_what_changed_and_not_to_what(machine: Machine) -> None:
    machine.type("up")
    typed = machine.type("token", "rotate")
    assert (typed.status, typed.out) == (
        0,
        "admin token    changed: the one of before is refused\n"
        "publish tokens changed: 3 backends have taken theirs in 0.01 s\n",
    )
    assert machine.lb.rotator.rotations == 1


def test_who_has_not_taken_it_is_named(machine: Machine) -> None:
    machine.type("up")
    machine.lb.rotator.lagging = (("b-1", "it refused\x1b its token"), ("b-2", "timed out"))
    typed = machine.type("token", "rotate")
    assert typed.status == 0
    assert "1 backend has taken its" in typed.out
    assert "b-1 has not taken its token: it refused? its token\nb-2 has not" in typed.err


def test_for_programs(machine: Machine) -> None:
    machine.type("up")
    typed = machine.type("token", "rotate", "--json")
    assert json.loads(typed.out) == {"backends": 3, "lagging": [], "spread_ms": 12.3}


def test_one_that_is_under_way(machine: Machine) -> None:
    machine.type("up")
    machine.lb.rotator.error = OperationError("the tokens are being rotated already")
    typed = machine.type("token", "rotate")
    assert (typed.status, typed.err) == (1, "lbctl: the tokens are being rotated already\n")


def test_the_document_is_an_object_also_where_another_controller_finished_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.type("up")

    async def broken(*_: object) -> None:
        await machine.lb.rotator.rotate()
        raise NoAnswerError("the admin port does not answer: server disconnected")

    monkeypatch.setattr(AdminClient, "rotate_tokens", broken)
    monkeypatch.setattr(token, "LOOK_INTERVAL_S", 0.01)
    typed = machine.type("token", "rotate", "--json")
    assert json.loads(typed.out) == {"backends": None, "lagging": [], "spread_ms": None}


@pytest.mark.parametrize("changed", [True, False])
def test_a_controller_that_goes_is_waited_for(
    machine: Machine, changed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.type("up")

    async def broken(*_: object) -> None:
        if changed:
            await machine.lb.rotator.rotate()
        raise NoAnswerError("the admin port does not answer: server disconnected")

    monkeypatch.setattr(AdminClient, "rotate_tokens", broken)
    monkeypatch.setattr(token, "LOOK_INTERVAL_S", 0.01)
    typed = machine.type("token", "rotate")
    if changed:
        assert typed.status == 0
        assert "publish tokens changed: the backends have taken theirs" in typed.out
    else:
        assert (typed.status, typed.out) == (1, "")
        assert typed.err.endswith("run lbctl token rotate again\n")


def test_without_a_stack(machine: Machine) -> None:
    assert machine.type("token", "rotate").status == 1


def test_the_group_alone_is_wrong_usage(machine: Machine) -> None:
    assert machine.type("token").status == 2


def test_a_setting_that_status_does_not_show_is_compared_and_kept(machine: Machine) -> None:
    same = ("--probe-headers", "X-Key: s3cret")
    machine.type("up", *same)
    assert len(machine.lb.reloader.reloads) == 1
    assert machine.type("up", *same).status == 0
    assert len(machine.lb.reloader.reloads) == 1
    machine.type("up", "--probe-headers", "X-Key: other")
    assert len(machine.lb.reloader.reloads) == 2
    assert machine.type("upgrade").status == 0
    (_, _, _, upgraded) = machine.stacks["docker"].options
    assert upgraded.config.health.probe_headers == "X-Key: other"
