"""The audit log: who asked for which change, what became of it, and nothing that is secret."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.admin import audit
from lbctl.admin.audit import Audit, Entry
from lbctl.errors import DeadlineError, UsageError
from lbctl.process.logs import JsonFormatter
from tests.unit.admin.test_api import AUTH, RELOAD, SCALE, TOKEN, Admin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FIELDS = [
    "time", "log", "request_id", "lb", "client", "token", "agent", "action", "method", "path",
    "parameters", "status", "refused", "duration_ms", "suppressed",
]  # fmt: skip
NO_TOKEN = {"Authorization": "Bearer " + "b" * 64}


class Lines(logging.Handler):
    """What reaches the log, as it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter("controller"))
        self.raw: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.raw.append(self.format(record))

    @property
    def audit(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.raw]
        return [line for line in lines if line["log"] == "audit"]

    @property
    def last(self) -> dict[str, Any]:
        return self.audit[-1]


@pytest.fixture
def lines() -> Any:
    handler = Lines()
    root, before = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    async with Admin().served() as served:
        yield served


async def test_a_change(admin: Admin, lines: Lines) -> None:
    await admin.scale({"replicas": 5}, **{"User-Agent": "lbctl/1 \xa0" + "x" * 200})
    line = lines.last
    assert list(line) == FIELDS
    assert line["request_id"] == admin.headers["X-Request-Id"]
    assert (line["client"], line["token"], line["action"]) == ("127.0.0.1", "held", "scale")
    assert (line["method"], line["path"]) == ("POST", SCALE)
    assert (line["parameters"], line["status"], line["refused"]) == ({"replicas": 5}, 200, None)
    assert line["agent"].startswith("lbctl/1 ?xxx")
    assert len(line["agent"]) == 100
    assert line["duration_ms"] >= 0
    assert line["suppressed"] == 0


async def test_every_change_has_its_words(admin: Admin, lines: Lines) -> None:
    await admin.change("rollout", {"image": "i:2", "batch": 2})
    await admin.change("reload", {"settings": {"fall": 4}})
    await admin.change("token/rotate", {})
    await admin.change("backends/id-b-1/drain", {})
    await admin.change("backends/id-b-1/undrain", {})
    await admin.change("backends/nobody/drain", {})
    assert [(line["action"], line["parameters"], line["status"]) for line in lines.audit] == [
        ("rollout", {"image": "i:2", "batch": 2}, 202),
        ("reload", {"settings": {"fall": 4}}, 200),
        ("token-rotate", {}, 200),
        ("drain", {"backend": "id-b-1", "name": "b-1"}, 200),
        ("undrain", {"backend": "id-b-1", "name": "b-1"}, 200),
        ("drain", {"backend": "nobody", "name": None}, 404),
    ]


async def test_a_line_is_never_longer_than_what_is_written_in_one_piece(
    admin: Admin, lines: Lines
) -> None:
    await admin.change("reload", {"settings": {"probe_body": "\x01" * 4_000}})
    assert lines.last["parameters"] is None
    assert max(map(len, lines.raw)) <= 4096


def test_nor_is_the_longest_that_anybody_can_ask_for(lines: Lines) -> None:
    long = "\N{GRINNING FACE}" * 1_000  # twelve characters each
    client = ":".join(["ffff"] * 8) + "%interface-name"
    entry = Entry(client, "wrong", long, long, f"/{long}", action="token-rotate")
    entry.parameters, entry.refused, entry.began_s = {"settings": long}, "content-type", -1e9
    Audit("b").close(entry, 415)
    assert lines.last["parameters"] is None
    assert max(map(len, lines.raw)) < 4096


async def test_no_secret_is_in_it(admin: Admin, lines: Lines) -> None:
    settings = {"probe_headers": "X-Key: hunter2; Host: a", "hunter2": "hunter2"}
    await admin.change("reload", {"settings": settings})
    assert lines.last["parameters"] == {"settings": {"probe_headers": "X-Key; Host"}}
    admin.reloader.error = UsageError("settings: unknown setting 'hunter2'")
    await admin.change("reload", {"settings": settings})
    await admin.change("reload", {"hunter2": 1})
    await admin.change("scale", {"replicas": "hunter2"})
    await admin.ask("POST", f"{SCALE}?token={TOKEN}", headers=AUTH)
    assert len(lines.audit) == 5
    text = "".join(lines.raw)
    assert "hunter2" not in text
    assert TOKEN not in text


@pytest.mark.parametrize(
    ("headers", "body", "status", "refused", "token"),
    [
        (NO_TOKEN, {}, 401, "token", "wrong"),
        ({"Authorization": ""}, {}, 401, "token", "wrong"),
        ({"Origin": "http://evil.example"}, {}, 403, "cross-site", "held"),
        ({"Host": "evil.example", **NO_TOKEN}, {}, 403, "host", "wrong"),
        ({"Content-Type": "text/plain"}, {}, 415, "content-type", "held"),
        ({}, b"{", 400, "body", "held"),
        ({}, {"replicas": 0}, 400, "body", "held"),
        ({}, b" " * 70_000, 413, "body", "held"),
    ],
)
async def test_what_is_refused(
    admin: Admin,
    lines: Lines,
    headers: dict[str, str],
    body: object,
    status: int,
    refused: str,
    token: str,
) -> None:
    assert (await admin.scale(body, **headers))[0] == status
    line = lines.last
    assert (line["action"], line["status"]) == ("scale", status)
    assert (line["refused"], line["token"]) == (refused, token)
    assert line["parameters"] is None


async def test_what_fails_is_no_refusal(admin: Admin, lines: Lines) -> None:
    admin.scaler.error = DeadlineError("b-2 lags")
    await admin.scale({"replicas": 3})
    assert (lines.last["status"], lines.last["refused"]) == (504, None)
    assert lines.last["parameters"] == {"replicas": 3}


async def test_reads_are_in_it_only_where_they_are_refused(admin: Admin, lines: Lines) -> None:
    await admin.ask("GET", "/api/v1/status")
    await admin.ask("GET", "/healthz")
    assert not lines.audit
    await admin.ask("GET", "/api/v1/status", headers={"Host": "evil.example"})
    line = lines.last
    assert (line["action"], line["path"]) == ("read", "/api/v1/status")
    assert (line["refused"], line["token"]) == ("host", "none")


async def test_what_nobody_knows_is_in_it(admin: Admin, lines: Lines) -> None:
    await admin.ask("DELETE", RELOAD)
    await admin.ask("POST", "/api/v1/nothing\u2028")
    assert [(line["action"], line["status"]) for line in lines.audit] == [
        ("unknown", 405), ("unknown", 404),
    ]  # fmt: skip
    assert lines.last["path"] == "/api/v1/nothing?"


async def test_strangers_cannot_fill_it(admin: Admin, lines: Lines) -> None:
    for _ in range(80):
        await admin.scale({}, **NO_TOKEN)
    assert 50 <= len(lines.audit) < 80
    await admin.scale({"replicas": 2})
    shown = len(lines.audit) - 1
    assert lines.last["token"] == "held"
    assert sum(line["suppressed"] for line in lines.audit) == 80 - shown


def test_one_that_is_broken_off(lines: Lines) -> None:
    clock = [100.0]
    log = Audit("a", lambda: clock[0])
    entry = Entry("::1", "held", "", "POST", SCALE, began_s=99.5, action="scale")
    log.close(entry, None)
    assert (lines.last["status"], lines.last["lb"]) == (None, "a")
    assert lines.last["duration_ms"] == 500.0


def test_request_ids_differ() -> None:
    ids = {Entry("", "", "", "", "").request_id for _ in range(100)}
    assert len(ids) == 100
    assert audit.READ == "read"
