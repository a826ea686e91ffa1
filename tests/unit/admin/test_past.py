"""Lists and events of the past, and the stream of them, as clients see them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.admin.door import Bounds
from lbctl.admin.past import Encoded
from lbctl.admin.sse import Stream, encode
from lbctl.core.history import (
    Event,
    Kind,
    Listed,
    Span,
    document,
    list_events,
    record_of,
)
from lbctl.errors import OperationError
from lbctl.model import Backend, HistoryState, HistoryStatus, Member, Membership
from tests.support.deadlines import eventually, scaled
from tests.unit.admin.fakes import WHEN
from tests.unit.admin.test_api import AUTH, Admin
from tests.unit.admin.test_door import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

    from lbctl.core.history import Record

HISTORY, EVENTS = "/api/v1/history", "/api/v1/events"
JSON = {"Accept": "application/json"}


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    async with Admin().served() as served:
        yield served


def listed(generation: int, *names: str) -> Listed:
    members = tuple(Member(Backend(f"id-{n}", n, f"10.0.0.{i}"), WHEN) for i, n in enumerate(names))
    at = WHEN + timedelta(minutes=generation)
    before = Membership(generation - 1, WHEN, ())
    event = next(list_events(before, Membership(generation, at, members), {}))
    record = record_of(event, generation * 10, 0, whole=True)
    return Listed(record, tuple(json.loads(record.data)["members"]))


async def ask(admin: Admin, path: str, **query: Any) -> tuple[int, Any]:
    return await admin.ask("GET", path, params=query, headers=JSON)


async def test_lists_with_time_reason_and_members(admin: Admin) -> None:
    admin.journal.listed = [listed(1, "b-1"), listed(2, "b-1", "b-2")]
    status, body = await ask(admin, HISTORY)
    assert status == 200
    assert body["generations"][1] == {
        "seq": 20,
        "generation": 2,
        "at": "2026-11-22T10:02:00.123Z",
        "reason": "+b-1, +b-2",
        "joined": ["b-1", "b-2"],
        "left": [],
        "members": [
            {"ip": "10.0.0.0", "id": "id-b-1", "name": "b-1", "since": "2026-11-22T10:00:00.123Z"},
            {"ip": "10.0.0.1", "id": "id-b-2", "name": "b-2", "since": "2026-11-22T10:00:00.123Z"},
        ],
    }
    assert admin.journal.settlings == 1  # what happened just now is in it


async def test_who_was_in_rotation_then(admin: Admin) -> None:
    admin.journal.listed = [listed(1, "b-1"), listed(2, "b-1", "b-2")]
    for at, expected in (
        ("2026-11-22T10:01:30Z", [1]), ("2026-11-22 10:03", [2]), ("2026-11-22T10:00:00Z", []),
    ):  # fmt: skip
        status, body = await ask(admin, HISTORY, at=at)
        assert status == 200
        assert [one["generation"] for one in body["generations"]] == expected


@pytest.mark.parametrize(
    ("query", "span"),
    [
        ({}, Span(100)),
        ({"limit": "7", "before": "30"}, Span(7, before=30)),
        ({"after": "30"}, Span(100, after=30, oldest=True)),
        (
            {"since": "2026-11-22T10:00:00Z", "until": "@1800000000"},
            Span(100, since_ms=1_795_341_600_000, until_ms=1_800_000_000_000, oldest=True),
        ),
        (
            {"since": "2026-11-22T10:00:00+02:00", "before": "9"},
            Span(100, before=9, since_ms=1_795_334_400_000),
        ),
    ],
)
async def test_what_is_asked_for(admin: Admin, query: dict[str, str], span: Span) -> None:
    assert (await ask(admin, EVENTS, **query))[0] == 200
    assert (await ask(admin, HISTORY, **query))[0] == 200
    assert admin.journal.asked == [span, Span(**{**_fields(span), "lists": True})]


def _fields(span: Span) -> dict[str, Any]:
    return {name: getattr(span, name) for name in span.__dataclass_fields__}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"limit": "0"}, "limit: 0 is out of range (1 to 1000)"),
        ({"limit": "1001"}, "limit: 1001 is out of range"),
        ({"limit": "-1"}, "limit must be a whole number"),
        ({"limit": "1_0"}, "limit must be a whole number"),
        ({"before": "x"}, "before must be a whole number"),
        ({"after": "9" * 16}, "after must be a whole number"),
        ({"since": "soon\n"}, "since: 'soon?' is no time: 10:00,"),
        ({"until": ""}, "until: '' is no time"),
    ],
)
@pytest.mark.parametrize("path", [HISTORY, EVENTS])
async def test_nonsense(admin: Admin, path: str, query: dict[str, str], said: str) -> None:
    status, body = await ask(admin, path, **query)
    assert status == 400
    assert said in body["error"]


async def test_more_nonsense(admin: Admin) -> None:
    assert (await ask(admin, HISTORY, at="nonsense"))[1]["error"].startswith("at: 'nonsense'")
    assert await ask(admin, EVENTS, follow="yes") == (400, {"error": "follow must be 0 or 1"})


async def test_a_history_that_cannot_be_read(admin: Admin) -> None:
    admin.journal.error = OperationError("the history cannot be read now: disk I/O error")
    for path in (HISTORY, EVENTS, HISTORY + "?at=5m"):
        status, body = await admin.ask("GET", path, headers=JSON)
        assert (status, body["error"][:30]) == (409, "the history cannot be read now")


async def test_names_cannot_break_a_line(admin: Admin) -> None:
    evil = "b\n\ndata: {}\r\u2028\x1b[31m"
    admin.journal.record(Event(Kind.DOWN, evil, evil, {"x": evil}))
    status, body = await ask(admin, EVENTS)
    assert status == 200
    (event,) = body["events"]
    assert event["subject"] == event["text"] == event["data"]["x"] == evil
    async with admin.session.get(EVENTS, params={"after": 0}) as answer:
        (told,) = await events(answer, 1)
        assert json.loads(told["data"]) == event


async def test_reads_are_for_those_who_may() -> None:
    async with Admin(open_networks=()).served() as closed:
        for path in (HISTORY, EVENTS):
            assert (await closed.ask("GET", path))[0] == 401
        assert (await closed.ask("GET", HISTORY, headers=AUTH))[0] == 200
        async with closed.session.get(EVENTS, headers=AUTH) as answer:
            assert answer.status == 200


async def test_another_site_s_page_gets_no_stream(admin: Admin) -> None:
    status, _ = await admin.ask("GET", EVENTS, headers={"Sec-Fetch-Site": "cross-site"})
    assert status == 403


# The stream


async def events(answer: aiohttp.ClientResponse, count: int) -> list[dict[str, str]]:
    """The next events, by field; comments and retry are skipped."""
    found: list[dict[str, str]] = []
    while len(found) < count:
        block = await asyncio.wait_for(answer.content.readuntil(b"\n\n"), scaled(5))
        lines = [line.partition(": ") for line in block.decode().strip("\n").split("\n")]
        fields = {name: value for name, _, value in lines}
        if "data" in fields:
            assert len(lines) == len(fields)
            found.append(fields)
    return found


def happens(admin: Admin, count: int = 1) -> None:
    for _ in range(count):
        admin.journal.record(Event(Kind.DOWN, "it is paused", "b-1"))


async def test_what_happens_from_now_on(admin: Admin) -> None:
    happens(admin, 3)
    async with admin.session.get(EVENTS) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Request-Id"]
        await answer.content.readuntil(b"\n\n")
        happens(admin)
        (event,) = await events(answer, 1)
        assert (event["id"], event["event"]) == ("4", "down")
        assert json.loads(event["data"]) == {
            "seq": 4, "at": "2026-11-22T10:00:00.123Z", "kind": "down", "subject": "b-1",
            "text": "it is paused", "data": {},
        }  # fmt: skip
    await eventually(lambda: not admin.journal.wakers)


@pytest.mark.parametrize(
    ("query", "headers", "first"),
    [
        ({"after": "2"}, {}, 3),
        ({}, {"Last-Event-ID": "3"}, 4),
        ({"after": "1"}, {"Last-Event-ID": "3"}, 4),  # a browser asks the same again
        ({"after": "4"}, {"Last-Event-ID": "nonsense"}, 5),
        ({"since": "2026-11-22T10:00:00Z"}, {}, 1),
        ({"since": "2026-11-23"}, {}, 6),
        ({"follow": "1"}, {"Last-Event-ID": "0"}, 1),
    ],
)
async def test_where_it_goes_on(
    admin: Admin, query: dict[str, str], headers: dict[str, str], first: int
) -> None:
    happens(admin, 5)
    async with admin.session.get(EVENTS, params=query, headers=headers) as answer:
        await answer.content.readuntil(b"\n\n")
        happens(admin, 2)
        found = await events(answer, 8 - first)
        assert [int(event["id"]) for event in found] == list(range(first, 8))


async def test_a_history_that_fails_in_the_middle_ends_the_stream(admin: Admin) -> None:
    async with admin.session.get(EVENTS) as answer:
        await answer.content.readuntil(b"\n\n")
        admin.journal.error = OperationError("no")
        happens(admin)
        assert await answer.content.read() == b""


async def test_the_end_of_the_controller_ends_it_well() -> None:
    admin = Admin()
    async with admin.served(), admin.session.get(EVENTS) as answer:
        await answer.content.readuntil(b"\n\n")
        closing = asyncio.create_task(admin.server.close())
        assert await answer.content.read() == b""
        await closing


async def test_a_hundred_of_whom_some_do_not_read() -> None:
    """Those that read get everything; those that do not are dropped, and cost no more than that."""
    bounds = Bounds(write_s=scaled(1.5))
    async with Admin(bounds=bounds).served() as admin, contextlib.AsyncExitStack() as stack:
        head = b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
        deaf = [await stack.enter_async_context(connected(admin, head)) for _ in range(30)]
        for client in deaf:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        answers = [await stack.enter_async_context(admin.session.get(EVENTS)) for _ in range(70)]
        await eventually(lambda: len(admin.journal.wakers) == 100)
        reading = [asyncio.create_task(events(answer, 200)) for answer in answers]
        for number in range(200):
            data = {"filling": "x" * 8_000}
            admin.journal.record(Event(Kind.DOWN, "", "b-1", data))
            if number % 20 == 0:
                assert (await admin.ask("GET", "/healthz"))[0] == 200
        for found in await asyncio.gather(*reading):
            assert [int(event["id"]) for event in found] == list(range(1, 201))
        happens(admin)
        await eventually(lambda: len(admin.journal.wakers) == 70)


async def test_a_burst_is_encoded_once_for_all_who_follow(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(record: Record) -> dict[str, Any]:
        made.append(record.seq)
        return document(record)

    monkeypatch.setattr("lbctl.admin.past.document", counted)
    async with contextlib.AsyncExitStack() as stack:
        answers = [await stack.enter_async_context(admin.session.get(EVENTS)) for _ in range(8)]
        await eventually(lambda: len(admin.journal.wakers) == 8)
        happens(admin, 600)
        for found in await asyncio.gather(*(events(answer, 600) for answer in answers)):
            assert [int(event["id"]) for event in found] == list(range(1, 601))
    assert made == list(range(1, 601))


async def test_a_burst_leaves_the_loop_to_others_between_its_blocks(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = 0
    sent: list[tuple[int, int]] = []  # in which turn of the loop, how many bytes
    send = Stream.send

    async def noted(stream: Stream, block: bytes) -> None:
        sent.append((turn, len(block)))
        await send(stream, block)

    async def turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(Stream, "send", noted)
    happens(admin, 2_000)
    turning = asyncio.create_task(turns())
    try:
        async with admin.session.get(EVENTS, params={"after": 0}) as answer:
            assert len(await events(answer, 2_000)) == 2_000
    finally:
        turning.cancel()
    assert len({when for when, _ in sent}) == len(sent)
    assert 4 < len(sent) <= 20  # several events in each,
    assert max(size for _, size in sent) < 66_000  # and not very many


def test_what_is_kept_encoded_has_an_end() -> None:
    encoded = Encoded(1_000)
    records = [record_of(Event(Kind.DOWN, "x" * 300), seq, 0) for seq in range(1, 5)]
    first, second, *_ = [encoded.of(record) for record in records]
    assert encoded.of(records[3]) is encoded.of(records[3])
    assert encoded.of(records[0]) == first
    assert encoded.of(records[0]) is not first
    huge = record_of(Event(Kind.DOWN, data={"x": "x" * 5_000}), 9, 0)
    assert encoded.of(huge) == encode(json.dumps(document(huge)), "down", "9")
    assert encoded.of(records[1]) == second


def test_a_number_that_is_given_out_again_is_another_event() -> None:
    encoded = Encoded()
    for text in ("one", "two", "one"):
        record = record_of(Event(Kind.DOWN, text), 1, 0)
        assert json.loads(encoded.of(record).split(b"data: ")[1])["text"] == text


async def test_there_is_room_for_others_beside_streams() -> None:
    async with (
        Admin(bounds=Bounds(connections=8)).served() as admin,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(4):
            answer = await stack.enter_async_context(admin.session.get(EVENTS))
            assert answer.status == 200
        status, body = await admin.ask("GET", EVENTS)
        assert status == 503
        assert "there are 4 streams already" in body["error"]
        assert (await admin.ask("GET", "/healthz"))[0] == 200


# What changes leave behind


async def test_a_change_is_in_the_history_when_it_is_answered(admin: Admin) -> None:
    await admin.scale({"replicas": 2})
    assert admin.journal.settlings == 1
    (record,) = admin.journal.kept
    assert (record.kind, record.subject, record.text) == ("audit", "scale", "by 127.0.0.1: 200")
    data = json.loads(record.data)
    assert data["parameters"] == {"replicas": 2}
    assert data["request_id"] == admin.headers["X-Request-Id"]


async def test_what_anybody_may_send_fills_no_history(admin: Admin) -> None:
    await admin.scale({"replicas": 2}, Authorization="Bearer wrong")
    await admin.ask("GET", HISTORY)
    await admin.ask("PUT", "/nowhere")
    assert admin.journal.kept == []


async def test_status_and_metrics_say_how_it_is(admin: Admin) -> None:
    admin.stats.history = HistoryStatus(HistoryState.FAILING, "disk full", 7, 3)
    _, body = await admin.ask("GET", "/api/v1/status")
    assert body["history"] == {"state": "failing", "message": "disk full", "lost": 7, "events": 3}
    _, text = await admin.ask("GET", "/metrics")
    assert "lbctl_history_lost_total 7.0" in text
    assert "lbctl_history_failing 1.0" in text
