"""`--json`: one document on standard output, whatever else is said on standard error."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import pytest

from lbctl.cli import manual
from lbctl.cli.app import lbctl
from lbctl.model import Release, Rollout, RolloutState, State
from tests.unit.admin.fakes import backend_status

if TYPE_CHECKING:
    from tests.unit.cli.machine import Machine, Typed

WITHOUT = {"completion", "guard", "serve"}  # a text by nature, or no commands for people


def document(typed: Typed, status: int = 0) -> Any:
    assert typed.status == status, typed
    return json.loads(typed.out)


@pytest.mark.parametrize(
    "words",
    [
        ["up"], ["scale", "3"], ["reload"], ["upgrade"], ["drain", "b-2"], ["undrain", "b-2"],
        ["rollout"], ["token", "rotate"], ["status"], ["explain", "b-1"], ["history"],
        ["doctor"], ["down"],
    ],
)  # fmt: skip
def test_it_has_the_keys_that_it_is_said_to_have(machine: Machine, words: list[str]) -> None:
    machine.type("up")
    found = json.loads(machine.type(*words, "--json").out)
    name = " ".join(words) if words[0] == "token" else words[0]
    said = list(manual.SHAPES[name])
    if "..." in said:
        assert set(said) - {"..."} <= set(found)
    else:
        assert said == list(found)


def test_every_command_has_it() -> None:
    lacking = {
        name
        for name, command in lbctl.commands.items()
        if not isinstance(command, click.Group)
        and all("--json" not in one.opts for one in command.params)
    }
    assert lacking == WITHOUT


def test_up(machine: Machine) -> None:
    assert document(machine.type("up", "--json")) == {
        "project": "shop",
        "runtime": "docker",
        "url": machine.lb.traffic.url,
        "tls_url": None,
        "redirects": False,
        "admin_url": machine.lb.admin.url,
        "replicas": 3,
        "in_rotation": 3,
        "generation": 7,
        "list": ["127.1.0.1"] * 3,
    }


def test_scale(machine: Machine) -> None:
    machine.type("up")
    machine.lb.scaler.drains = 1
    typed = machine.type("scale", "5", "--json")
    found = document(typed)
    assert found.pop("took_s") >= 0
    assert found == {"replicas": 5, "previous": 3, "in_rotation": 4, "generation": 7}


@pytest.mark.parametrize("change", ["drain", "undrain"])
def test_by_hand(machine: Machine, change: str) -> None:
    machine.type("up")
    found = document(machine.type(change, "b-2", "--json"))
    assert list(found) == ["backend"]
    assert found["backend"]["id"] == "id-b-2"


def test_one_that_did_not_come_in_is_a_document_and_a_failure(machine: Machine) -> None:
    machine.type("up")
    machine.lb.fleet.rows = [backend_status("b-1", state=State.DOWN, reason="it is paused")]
    typed = machine.type("undrain", "b-1", "--json")
    assert document(typed, 1)["backend"]["state"] == "down"
    assert len(typed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("ends", "status"), [(RolloutState.DONE, 0), (RolloutState.ROLLED_BACK, 1)]
)
def test_rollout(machine: Machine, ends: RolloutState, status: int) -> None:
    machine.type("up")
    machine.lb.scaler.ends = ends
    found = document(machine.type("rollout", "--json"), status)
    assert sorted(found) == ["rollout", "took_s"]
    assert found["rollout"]["state"] == ends.value


def test_a_rollout_that_is_followed_says_so_beside_the_document(machine: Machine) -> None:
    machine.type("up")
    under_way = Rollout(Release(2, ""), Release(), 3, replaced=1)
    machine.lb.scaler.rollout = under_way
    machine.lb.scaler.then = replace(under_way, state=RolloutState.DONE, replaced=3)
    typed = machine.type("rollout", "--json")
    assert document(typed)["rollout"]["replaced"] == 3
    assert "following it" in typed.err


def test_reload_has_the_settings_without_what_may_be_a_secret(machine: Machine) -> None:
    machine.type("up")
    machine.lb.reloader.present = {"fall": 4, "probe_headers": "X-Key: secret"}
    found = document(machine.type("reload", "--json"))
    assert found["settings"] == {"fall": 4, "probe_headers": "X-Key"}
    assert found["took_s"] >= 0


def test_upgrade(machine: Machine) -> None:
    machine.type("up")
    found = document(machine.type("upgrade", "--json"))
    assert (found["lb"], sorted(found)) == ("lb", ["lb", "took_s"])


def test_down(machine: Machine) -> None:
    machine.type("up")
    assert document(machine.type("down", "--json")) == {"project": "lbctl", "ended": True}
    assert document(machine.type("down", "--json")) == {"project": "lbctl", "ended": False}


def test_an_error_is_no_document(machine: Machine) -> None:
    typed = machine.type("scale", "3", "--json")
    assert (typed.status, typed.out) == (1, "")
    assert typed.err
