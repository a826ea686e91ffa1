"""The looks of `status --watch`: an lb that does not answer is waited for, and it is said."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, cast

import pytest

from lbctl.cli.client import AdminClient, NoAnswerError, ProcessRow, Status
from lbctl.cli.panel import Size
from lbctl.cli.screen import console
from lbctl.cli.watch import _View
from tests.unit.cli.test_tables import row, status

if TYPE_CHECKING:
    from rich.console import RenderableType


class FakeClient:
    """Answers, or not."""

    def __init__(self) -> None:
        self.pid = 7
        self.error: NoAnswerError | None = None

    async def status(self) -> Status:
        if self.error is not None:
            raise self.error
        view = status(row())
        view["processes"] = [
            ProcessRow(
                lb="", role="controller", name="controller", pid=self.pid, restarts=0,
                started_at="2026-11-22T09:00:00Z",
            )
        ]  # fmt: skip
        return view

    async def metrics_text(self) -> str:
        return 'lbctl_requests_total{backend="a",code="2xx"} 5.0\n'


def text_of(view: RenderableType) -> str:
    out = io.StringIO()
    console(out).print(view)
    return out.getvalue()


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def view(client: FakeClient) -> _View:
    return _View(cast("AdminClient", client), "http://127.0.0.1:8080")


async def test_one_that_does_not_answer_from_the_start_is_an_error(
    client: FakeClient, view: _View
) -> None:
    client.error = NoAnswerError("the admin port does not answer: connection refused")
    with pytest.raises(NoAnswerError):
        await view.look()


async def test_what_was_known_stays_and_it_is_said_that_it_is_old(
    client: FakeClient, view: _View
) -> None:
    await view.look()
    assert (view.silent, view.notes()) == (False, [])
    client.error = NoAnswerError("the admin port does not answer: connection refused\nmore")
    await view.try_look()
    (note,) = view.notes()
    assert view.silent
    assert note.startswith("no answer for 0 s, this is older: the admin port does not answer")
    assert "more" not in note
    drawn = text_of(view.panel(Size(100, 24)))
    assert "no answer for 0 s" in drawn
    assert "shop-backend-1" in drawn


async def test_another_controller_is_news(client: FakeClient, view: _View) -> None:
    await view.look()
    client.error = NoAnswerError("gone")
    await view.try_look()
    client.error, client.pid = None, 8
    await view.try_look()
    (note,) = view.notes()
    assert note.startswith("another controller leads since ")
    assert not view.silent
    await view.try_look()
    assert view.notes() == [note]  # for a while


async def test_a_block_for_a_pipe_is_plain_and_has_the_time(
    client: FakeClient, view: _View
) -> None:
    await view.look()
    lines = text_of(view.block()).splitlines()
    assert lines[0].endswith("Z")
    assert lines[1].startswith("shop on local")
    assert lines[-2] == "0.0 req/s"
    assert lines[-1] == ""
