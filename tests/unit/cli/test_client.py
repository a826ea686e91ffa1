"""The admin port's client, while the controllers behind it are renewed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web

from lbctl.cli import client as client_module
from lbctl.cli.client import AdminClient, NoAnswerError, WrongTokenError
from lbctl.errors import DeadlineError, OperationError, UnsupportedError, UsageError
from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Answer = web.Response | None


class Port:
    """An admin port that tells, one status after the other, the pids of its controllers; None is
    an answer that breaks off. The last one stays.
    """

    def __init__(self) -> None:
        self.statuses: list[dict[str, int] | None] = [{"a": 1}]
        self.reload: Answer = web.json_response({"settings": {}})
        self.asked: list[tuple[str, str]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        if request.method == "POST":
            return self._whole(request, self.reload)
        pids = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return self._whole(request, None if pids is None else web.json_response(_status(pids)))

    def _whole(self, request: web.Request, answer: Answer) -> web.Response:
        if answer is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return answer


def _status(pids: dict[str, int]) -> dict[str, Any]:
    return {
        "processes": [
            {"lb": lb, "role": role, "pid": pid, "started_at": "then"}
            for lb, pid in pids.items()
            for role in ("controller", "worker")
        ]
    }


@pytest_asyncio.fixture
async def port() -> AsyncIterator[Port]:
    port = Port()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", port.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield port
    await runner.cleanup()


@pytest.fixture(autouse=True)
def no_time_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_HANDOVER_S", 0.0)
    monkeypatch.setattr(client_module, "_RETRY_INTERVAL_S", 0.001)
    monkeypatch.setattr(client_module, "_RELOAD_TIMEOUT_S", scaled(5))


async def test_a_reload_is_done_when_no_controller_of_before_is_left(port: Port) -> None:
    before = {"a": 1, "b": 1}
    port.statuses = [
        before,  # asked before the reload
        before,
        {"a": 1, "b": 2},
        None,  # one takes the other's place
        {"b": 2},
    ]
    async with AdminClient(port.url) as client:
        await client.reload({"fall": 7}, "token")
    assert port.statuses == [{"b": 2}]
    assert [method for method, _ in port.asked] == ["GET", "POST", "GET", "GET", "GET", "GET"]


async def test_controllers_that_stay_are_told(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_RELOAD_TIMEOUT_S", 0.05)
    async with AdminClient(port.url) as client:
        with pytest.raises(DeadlineError, match="were not renewed"):
            await client.reload(None, "token")


async def test_who_leads_is_to_know_every_lb(port: Port) -> None:
    port.statuses = [None, {}, {"a": 1}, None, {"a": 1, "b": 1}]
    async with AdminClient(port.url) as client:
        assert await client.missing(("a", "b"), scaled(5)) == []
        assert port.statuses == [{"a": 1, "b": 1}]
        assert await client.missing(("d", "b", "c"), 0.05) == ["c", "d"]
        port.asked.clear()
        assert await client.missing((), scaled(5)) == []
        assert port.asked == []
        port.statuses = [None]
        with pytest.raises(NoAnswerError):
            await client.missing(("a",), 0.05)


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (web.json_response({"error": "fall: no"}, status=400), UsageError, "fall: no"),
        (
            web.json_response({"error": "no token"}, status=401),
            WrongTokenError,
            "^no token\nif the tokens were rotated just now, run it again: it reads the new one$",
        ),
        (web.json_response({"error": "no\x1b"}, status=409), OperationError, r"no\?"),
        (web.json_response({"error": "late"}, status=504), DeadlineError, "late"),
        (
            web.json_response({"error": "POST /x: Not Found"}, status=404),
            UnsupportedError,
            "Not Found",
        ),
        (web.Response(status=500, text="<html>"), OperationError, "answered 500"),
        (None, OperationError, "does not answer"),
    ],
)
async def test_a_refused_reload_waits_for_nobody(
    port: Port, answer: Answer, error: type[Exception], says: str
) -> None:
    port.reload = answer
    async with AdminClient(port.url) as client:
        with pytest.raises(error, match=says):
            await client.reload(None, "token")
    assert [method for method, _ in port.asked] == ["GET", "POST"]


async def test_a_page_in_latin_1_is_another_service_s(port: Port) -> None:
    port.reload = web.Response(body=b"<html>caf\xe9</html>", content_type="text/html")
    async with AdminClient(port.url) as client:
        with pytest.raises(OperationError, match="something else listens there"):
            await client.rotate_tokens("token")


async def test_a_change_is_never_sent_twice(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been heard, though nobody answered."""
    monkeypatch.setattr(client_module, "_HANDOVER_S", scaled(5))
    port.reload = None
    async with AdminClient(port.url) as client:
        with contextlib.suppress(OperationError):
            await client.scale(3, "token", scaled(5))
    assert [method for method, _ in port.asked] == ["POST"]
