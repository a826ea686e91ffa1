"""`lbctl drain`, `undrain` and `rollout` as a person types them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lbctl.cli import fleet
from lbctl.cli.client import BackendRow, ChecksRow
from lbctl.errors import ImageError, OperationError, UsageError
from lbctl.model import Release, Rollout, RolloutState, State
from tests.unit.admin.fakes import backend_status

if TYPE_CHECKING:
    from tests.unit.cli.machine import Machine


def row(name: str, id_: str, ip: str) -> BackendRow:
    return BackendRow(
        id=id_, name=name, ip=ip, port=8080, weight=1, state="up", reason="", since="",
        in_flight=0, requests_per_second=0.0, error_ratio=None, p50_ms=None, p99_ms=None,
        published_generation=1, last_check="",
        cause="well", checks=ChecksRow(passed=True, in_a_row=9), publish=True, revision=1,
        ejection=None,
    )  # fmt: skip


ROWS = [
    row("shop-backend-1", "ab12", "127.1.0.1"),
    row("shop-backend-2", "ab34", "127.1.0.2"),
    row("shop-backend-3", "cd56", ""),
    row("ab", "ef78", "127.1.0.4"),
]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("shop-backend-2", "ab34"), ("127.1.0.1", "ab12"), ("cd56", "cd56"), ("c", "cd56"),
        ("ab3", "ab34"), ("ab", "ef78"),
    ],
)  # fmt: skip
def test_a_backend_is_a_name_the_beginning_of_an_id_or_an_ip(name: str, found: str) -> None:
    assert fleet.pick(name, ROWS)["id"] == found


@pytest.mark.parametrize("name", ["", "shop", "127.1.0", "x", "AB12", "\x1b[31m"])
def test_a_backend_that_is_not_there(name: str) -> None:
    with pytest.raises(OperationError, match="no backend is called") as caught:
        fleet.pick(name, ROWS)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shop-backend-7", "did you mean shop-backend-1 or shop-backend-2 or shop-backend-3?"),
        ("shop-bakend-2", "did you mean shop-backend-1 or shop-backend-2 or shop-backend-3?"),
        ("127.1.0.9", "did you mean 127.1.0.1 or 127.1.0.2 or 127.1.0.4?"),
        ("zzz", "there are: shop-backend-1, shop-backend-2, shop-backend-3, ab"),
    ],
)
def test_a_backend_that_is_not_there_has_neighbours(name: str, said: str) -> None:
    with pytest.raises(OperationError) as caught:
        fleet.pick(name, ROWS)
    assert str(caught.value) == f"no backend is called {name!r}; {said}"


def test_not_all_of_many_backends_are_named() -> None:
    rows = [row(f"b-{n}", f"id{n}", "") for n in range(1, 21)]
    with pytest.raises(OperationError, match=r"b-7, b-8 and 12 more$"):
        fleet.pick("nobody", rows)
    with pytest.raises(OperationError, match=r"there are: none$"):
        fleet.pick("nobody", [])


def test_a_backend_that_may_be_two() -> None:
    with pytest.raises(UsageError, match=r"'a' may be shop-backend-1 .* shop-backend-2"):
        fleet.pick("a", ROWS)


def test_drain(machine: Machine) -> None:
    machine.type("up")
    typed = machine.type("drain", "b-2")
    assert (typed.status, typed.out) == (0, "b-2 is drained, and on no list\n")
    assert machine.lb.scaler.by_hand == [("drain", "id-b-2")]


def test_undrain(machine: Machine) -> None:
    machine.type("up")
    typed = machine.type("undrain", "id-b-3")
    assert (typed.status, typed.out) == (0, "b-3 is in rotation\n")
    assert machine.lb.scaler.by_hand == [("undrain", "id-b-3")]


def test_undrain_says_why_it_is_not_in_rotation(machine: Machine) -> None:
    machine.type("up")
    machine.lb.fleet.rows = [backend_status("b-1", state=State.DOWN, reason="it is paused")]
    typed = machine.type("undrain", "b-1")
    assert (typed.status, typed.err) == (1, "lbctl: b-1 may come in, but is down: it is paused\n")


@pytest.mark.parametrize(
    ("name", "status"), [("nobody", 1), ("id-", 2), ("127.1.0.1", 2)]
)  # all of the fakes have that address
def test_a_backend_that_cannot_be_told(machine: Machine, name: str, status: int) -> None:
    machine.type("up")
    for command in ("drain", "undrain"):
        typed = machine.type(command, name)
        assert (typed.status, typed.out) == (status, "")
        assert len(typed.err.splitlines()) == 1
    assert machine.lb.scaler.by_hand == []


def test_rollout(machine: Machine) -> None:
    machine.type("up")
    machine.lb.scaler.ends = RolloutState.DONE
    typed = machine.type("rollout", "--image", "web:2", "--batch", "2")
    assert typed.status == 0, typed
    assert typed.out.startswith("3 backends replaced in ")
    assert "pulling web:2" in typed.err
    assert machine.stacks["docker"].fetched == ["web:2"]
    assert machine.lb.scaler.asked == [("web:2", 2)]


def test_a_rollout_that_went_back_says_why(machine: Machine) -> None:
    machine.type("up")
    machine.lb.scaler.ends = RolloutState.ROLLED_BACK
    machine.lb.scaler.message = "b-4 does not stay up: exited, exit status 1\n    no such user"
    typed = machine.type("rollout")
    assert (typed.status, typed.out) == (1, "")
    assert typed.err.splitlines() == [
        "lbctl: the rollout is rolled back: b-4 does not stay up: exited, exit status 1",
        "    no such user",
    ]
    assert machine.lb.scaler.asked == [("", 1)]


def test_an_image_that_cannot_be_had_changes_nothing(machine: Machine) -> None:
    machine.type("up")
    machine.stacks["docker"].error = ImageError("image nope:1 cannot be pulled: no route")
    typed = machine.type("rollout", "--image", "nope:1")
    assert typed.status == 1
    assert typed.err.splitlines() == ["lbctl: image nope:1 cannot be pulled: no route"]
    assert machine.lb.scaler.asked == []


@pytest.mark.parametrize("batch", ["0", "-1", "x", "10001", ""])
def test_impossible_batches(machine: Machine, batch: str) -> None:
    machine.type("up")
    assert machine.type("rollout", "--batch", batch).status == 2
    assert machine.lb.scaler.asked == []


def test_the_same_rollout_again_follows_the_one_under_way(machine: Machine) -> None:
    machine.type("up")
    under_way = Rollout(Release(2, "web:2"), Release(), 3, asked="web:2", replaced=1)
    machine.lb.scaler.rollout = under_way
    machine.lb.scaler.then = replace(under_way, state=RolloutState.DONE, replaced=3)
    typed = machine.type("rollout", "--image", "web:2")
    assert typed.status == 0, typed
    assert "following it" in typed.err
    assert machine.lb.scaler.asked == []


def test_another_rollout_meanwhile_is_refused_by_the_lb(machine: Machine) -> None:
    machine.type("up")
    machine.lb.scaler.rollout = Rollout(Release(2, "web:2"), Release(), 3, asked="web:2")
    machine.lb.scaler.error = OperationError("a rollout is under way (running, 0 of 3 replaced)")
    typed = machine.type("rollout", "--image", "web:3")
    assert (typed.status, len(typed.err.splitlines())) == (1, 2)
    assert "under way" in typed.err


def test_no_heal_is_a_setting(machine: Machine) -> None:
    machine.type("up", "--no-heal")
    (options,) = machine.stacks["docker"].options
    assert options.config.fleet.heal == "off"


def test_scale_says_who_is_out_by_hand(machine: Machine) -> None:
    machine.type("up")
    machine.lb.scaler.drains = 1
    typed = machine.type("scale", "3")
    assert (typed.status, typed.out[:10]) == (0, "3 -> 3 in ")
    assert typed.err == "1 of them drained by hand; lbctl undrain lets them in\n"
