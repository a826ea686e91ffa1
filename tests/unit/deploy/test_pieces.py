"""In which order the pieces of a stack are brought: never the one lb that serves before another
does.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from lbctl.deploy import Unwatched
from lbctl.deploy import pieces as pieces_module
from lbctl.deploy.pieces import Pieces, Present, Wanted, seal
from lbctl.errors import OperationError
from lbctl.runtime.containers import Names
from tests.support.told import Told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lbctl.runtime.engine import Engine

NAMES = Names("shop")
LATER = "2026-11-27T06:00:00Z"


class Book:
    """An engine that writes down what it is asked for. A container is named by its id, and is
    ready when it was asked so many times (`patience`); None is never.
    """

    def __init__(self, patience: int | None = 2) -> None:
        self.done: list[str] = []
        self._patience = patience
        self._looks: dict[str, int] = {}

    async def create(self, name: str, body: dict[str, Any]) -> str:
        self.done.append(f"create {name} ({body.get('StopTimeout')} s)")
        return name

    async def start(self, id_: str) -> None:
        self.done.append(f"start {id_}")

    async def stop(self, id_: str, grace_s: float) -> None:
        self.done.append(f"stop {id_} ({grace_s:g} s)")

    async def remove(self, id_: str) -> None:
        self.done.append(f"remove {id_}")

    async def restart(self, id_: str) -> None:
        self.done.append(f"restart {id_}")

    async def rename(self, id_: str, name: str) -> None:
        self.done.append(f"rename {id_} {name}")

    async def inspect(self, id_: str) -> dict[str, Any]:
        return container(id_)

    async def execute(self, id_: str, argv: list[str]) -> int:  # noqa: ARG002 - as the engine's
        looks = self._looks[id_] = self._looks.get(id_, 0) + 1
        ready = self._patience is not None and looks >= self._patience
        if ready:
            self.done.append(f"ready {id_}")
        return 0 if ready else 1

    async def logs(self, id_: str, *, follow: bool, tail: int) -> AsyncIterator[bytes]:  # noqa: ARG002
        yield b"no good"


def container(name: str, stop_timeout_s: int = 15) -> dict[str, Any]:
    return {
        "Id": name,
        "Name": f"/{name}",
        "State": {"Running": True, "Restarting": False, "StartedAt": LATER},
        "Config": {"Labels": {}, "Env": [], "StopTimeout": stop_timeout_s},
    }


def wanted() -> Wanted:
    guard: dict[str, Any] = {"Labels": {}}
    seal(guard, ["guard"])
    return Wanted(
        pod={"Labels": {}},
        guard=guard,
        lbs=("a", "b"),
        image="lbctl-lb:2",
        image_id="sha256:2",
        settings={"LBCTL_BACKEND_IMAGE": "lbctl-nginx:2"},
        engine_socket="/run/docker.sock",
        stop_timeout_s=47,
        addresses={},
    )


async def upgraded(book: Book, *lbs: str, guard: bool = False) -> Told:
    told = Told()
    present = Present(
        pod=container("shop-pod"),
        guard=container("old-guard") if guard else None,
        lbs={lb: container(f"old-{lb}", stop_timeout_s=23) for lb in lbs},
        strays=(),
    )
    async with contextlib.AsyncExitStack() as undo:
        await Pieces(cast("Engine", book), NAMES).bring(present, wanted(), undo, told, force=True)
        undo.pop_all()
    return told


@pytest.fixture(autouse=True)
def no_time_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "_READY_POLL_S", 0.0)
    monkeypatch.setattr(pieces_module, "_READY_S", 0.02)


def replaced(lb: str) -> list[str]:
    """Start-first, and the old one has the time that it was made with."""
    return [
        f"create shop-lb-{lb}-next (47 s)", f"start shop-lb-{lb}-next", f"ready shop-lb-{lb}-next",
        f"stop old-{lb} (23 s)", f"remove old-{lb}", f"rename shop-lb-{lb}-next shop-lb-{lb}",
    ]  # fmt: skip


GUARD = ["create shop-guard (None s)", "start shop-guard"]
READY = "ready shop-guard"


async def test_an_upgrade_replaces_one_after_the_other() -> None:
    book = Book()
    await upgraded(book, "a", "b")
    assert book.done == [*GUARD, *replaced("a"), *replaced("b"), READY]


async def test_an_upgrade_starts_the_missing_one_before_it_touches_the_other() -> None:
    book = Book()
    await upgraded(book, "b")
    new = ["create shop-lb-a (47 s)", "start shop-lb-a", "ready shop-lb-a"]
    assert book.done == [*GUARD, *new, *replaced("b"), READY]


async def test_the_guard_is_replaced_before_the_lbs_that_need_it() -> None:
    book = Book()
    await upgraded(book, "a", guard=True)
    guard = [
        "create shop-guard-next (None s)", "start shop-guard-next", "ready shop-guard-next",
        "stop old-guard (15 s)", "remove old-guard", "rename shop-guard-next shop-guard",
    ]  # fmt: skip
    assert book.done[: len(guard) + 1] == [*guard, "create shop-lb-a-next (47 s)"]


async def test_a_guard_that_does_not_get_ready_leaves_the_one_of_before_at_its_socket() -> None:
    book = Book(patience=None)
    with pytest.raises(OperationError, match="not ready after"):
        await upgraded(book, "a", guard=True)
    assert book.done == [
        "create shop-guard-next (None s)", "start shop-guard-next", "remove shop-guard-next",
        "restart old-guard",
    ]  # fmt: skip


@pytest.mark.parametrize(("role", "again"), [("guard", True), ("lb", False)])
async def test_a_guard_whose_place_a_stray_one_took_is_started_again(
    role: str, again: bool
) -> None:
    """What an upgrade that was killed half way leaves."""
    book = Book()
    guard, stray = container("shop-guard"), container("shop-guard-next")
    guard["Config"]["Labels"] = wanted().guard["Labels"]
    stray["Config"]["Labels"] = {"lbctl.role": role}
    present = Present(pod=container("shop-pod"), guard=guard, lbs={}, strays=(stray,))
    async with contextlib.AsyncExitStack() as undo:
        await Pieces(cast("Engine", book), NAMES).remove_strays(present)
        await Pieces(cast("Engine", book), NAMES).bring(
            present, replace(wanted(), lbs=()), undo, Unwatched(), force=False
        )
        undo.pop_all()
    assert book.done == [
        "remove shop-guard-next",
        *(["restart shop-guard", "ready shop-guard"] if again else []),
    ]


@pytest.mark.parametrize(("lbs", "total"), [("", 4), ("ab", 4), ("abc", 5)])
async def test_it_shows_how_many_containers_are_brought(lbs: str, total: int) -> None:
    told = await upgraded(Book(), *lbs)
    assert told.parts == [
        (done, total, f"containers: {done} of {total}") for done in range(total + 1)
    ]


@pytest.mark.parametrize("lbs", ["a", "b", "ab"])
async def test_one_that_does_not_get_ready_leaves_those_that_serve_alone(lbs: str) -> None:
    book = Book(patience=None)
    with pytest.raises(OperationError, match=r"not ready after .*\n    no good"):
        await upgraded(book, *lbs)
    created = {line.split()[1] for line in book.done if line.startswith("create")}
    removed = {line.split()[1] for line in book.done if line.startswith("remove")}
    assert removed == created
    assert not [line for line in book.done if line.startswith(("stop old", "remove old"))]
