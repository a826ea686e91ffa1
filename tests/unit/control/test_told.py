"""What the control plane tells the history: the real reconciler, publisher, scaler and healer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lbctl.core.history import Kind
from lbctl.errors import DeadlineError, ImageError, OperationError
from lbctl.model import Failure, Phase
from tests.support.control import CONTROL, FLEET, Harness, controlled
from tests.support.deadlines import eventually


def index(it: Harness, kind: Kind, subject: str = "") -> int:
    """Where in the order of what was told this comes first."""
    return next(
        number
        for number, event in enumerate(it.told)
        if event.kind is kind and subject in ("", event.subject)
    )


async def test_lists_and_who_came_and_went() -> None:
    async with controlled() as it:
        await eventually(lambda: it.reconciler.observed)  # or it goes on with the first by itself
        await it.scaler.scale(3)
        await it.scaler.scale(2)
        stay = it.up()
    ((leaver, _),) = it.heard(Kind.LEAVE)
    assert it.heard(Kind.GENERATION)[-1] == ("2", f"-{leaver}: it leaves: scaled down")
    assert sorted(it.heard(Kind.JOIN)) == [("own-1", ""), ("own-2", ""), ("own-3", "")]
    assert it.heard(Kind.LEAVE, Kind.DRAIN) == [(leaver, "it leaves: scaled down")] * 2
    assert it.heard(Kind.SCALE) == [
        ("", "to 3: asked for"), ("", "to 3: done"), ("", "to 2: asked for"), ("", "to 2: done"),
    ]  # fmt: skip
    lists = [event.membership for event in it.told if event.membership is not None]
    assert [[member.backend.name for member in one.members] for one in lists] == [
        ["own-1", "own-2", "own-3"], stay,
    ]  # fmt: skip
    # It is drained, so it leaves; it is listed, then gets clients, then is published everywhere.
    assert index(it, Kind.DRAIN) < index(it, Kind.LEAVE)
    assert index(it, Kind.GENERATION) < index(it, Kind.JOIN) < index(it, Kind.UP)


async def test_a_list_is_told_before_anybody_is_given_it() -> None:
    async with controlled() as it:
        told: list[int] = []
        write = it.writer.write

        async def look(backend: object, membership: object) -> None:
            told.append(len([one for one in it.told if one.membership == membership]))
            await write(backend, membership)  # type: ignore[arg-type]

        it.writer.write = look  # type: ignore[method-assign]
        await it.scaler.scale(3)
        await it.scaler.scale(1)
        # The empty list of the beginning is nobody's news.
        first = told.index(1)
        assert set(told[:first]) == {0}
        assert set(told[first:]) == {1}


async def test_a_list_that_is_everywhere() -> None:
    async with controlled() as it:
        await it.scaler.scale(3)
        await eventually(lambda: it.heard(Kind.PUBLISH))
    (published,) = [event for event in it.told if event.kind is Kind.PUBLISH]
    assert published.data["acknowledged"] == 3
    assert published.data["generation"] == 1
    assert published.data["duration_ms"] >= 0


async def test_down_eject_drain_and_back() -> None:
    async with controlled() as it:
        await it.scaler.scale(4)
        it.reconciler.failing("own-1", Failure.ANSWER)
        await it.scaler.drain("own-2")
        it.runtime.put(replace(it.runtime.instances["own-3"], phase=Phase.PAUSED), "pause")
        await eventually(lambda: it.up() == ["own-4"])
        await it.scaler.undrain("own-2")
    assert it.heard(Kind.EJECT) == [("own-1", "ejected for 30 s: 5 requests in a row failed (5xx)")]
    ((drained, why),) = it.heard(Kind.DRAIN)
    assert drained == "own-2"
    assert why.startswith("drained by hand at")
    assert ("own-3", "it is paused") in it.heard(Kind.DOWN)
    assert [subject for subject, _ in it.heard(Kind.UNDRAIN)] == ["own-2"]
    assert [subject for subject, _ in it.heard(Kind.UP)].count("own-2") == 2


async def test_a_scaling_that_does_not_get_there() -> None:
    async with controlled(control=replace(CONTROL, scale_timeout_s=1.0)) as it:
        it.writer.failing["own-2"] = "answered 500"
        with pytest.raises(DeadlineError):
            await it.scaler.scale(2)
        await eventually(lambda: len(it.heard(Kind.SCALE)) == 2)
    assert it.heard(Kind.SCALE)[1][1].startswith("to 2: after 1 s, 1 of 2 backends are in rotation")


async def test_a_rollout_tells_how_it_began_and_ended() -> None:
    async with controlled() as it:
        await it.scaler.scale(2)
        await it.scaler.roll_out("new:2", 1)
        with pytest.raises(OperationError):
            await it.scaler.roll_out("new:3", 1)
        await eventually(lambda: len(it.heard(Kind.ROLLOUT)) == 2)
    assert it.heard(Kind.ROLLOUT) == [
        ("2", "running, 0 of 2 replaced"), ("2", "done, 2 of 2 replaced"),
    ]  # fmt: skip
    assert [event.data["image"] for event in it.told if event.kind is Kind.ROLLOUT] == ["new:2"] * 2


async def test_a_rollout_that_goes_back_says_why() -> None:
    async with controlled() as it:
        await it.scaler.scale(1)
        it.runtime.start_errors["bad:1"] = ImageError("there is no image bad:1")
        await it.scaler.roll_out("bad:1", 1)
        await eventually(lambda: len(it.heard(Kind.ROLLOUT)) == 3)
    assert [text.partition(",")[0] for _, text in it.heard(Kind.ROLLOUT)] == [
        "running", "rolling back", "rolled back",
    ]  # fmt: skip
    assert "there is no image bad:1" in it.heard(Kind.ROLLOUT)[1][1]


async def test_healing() -> None:
    async with controlled(fleet=FLEET) as it:
        await it.scaler.scale(2)
        del it.runtime.instances["own-2"]
        it.runtime.emit("destroy", "own-2")
        await eventually(lambda: it.up() == ["own-1", "own-3"])
    assert it.heard(Kind.GONE) == [("own-2", "it is gone")]
    assert it.heard(Kind.HEAL) == [("own-3", "missing: 1, and as many are started")]
