"""The dashboard in a test's hand: what it shows, and what it is told of the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from playwright.sync_api import expect

from tests.unit.admin.fakes import backend_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator, Route

    from tests.support.browser import Visit
    from tests.unit.admin.test_api import Admin


def go(visit: Visit, path: str = "/") -> None:
    visit.go(path)
    expect(visit.page.locator("#link-word")).to_have_text("Live")


def row(visit: Visit, name: str) -> Locator:
    return visit.page.locator(f'#table tbody tr:has(.part-name:text-is("{name}"))')


def fleet(admin: Admin, count: int) -> None:
    admin.fleet.rows = [backend_status(f"shop-backend-{n}") for n in range(1, count + 1)]


def names(visit: Visit) -> list[str]:
    shown: list[str] = visit.evaluate(
        "[...document.querySelectorAll('#table tbody .part-name')].map(n => n.textContent)"
    )
    return shown


def generation(
    number: int,
    members: list[dict[str, Any]],
    *,
    reason: str = "",
    joined: str = "",
    left: str = "",
) -> dict[str, Any]:
    """One of the minute `number` past ten."""
    return {
        "seq": number, "generation": number, "at": f"2026-11-22T10:{number:02}:00.000Z",
        "reason": reason, "joined": joined.split(), "left": left.split(), "members": members,
    }  # fmt: skip


def member(number: int) -> dict[str, Any]:
    return {
        "id": f"id-b-{number}", "name": f"b-{number}", "ip": f"10.0.0.{number}",
        "since": "2026-11-22T09:00:00.000Z",
    }  # fmt: skip


def event(seq: int, kind: str, text: str, subject: str = "", at: str = "") -> dict[str, Any]:
    return {
        "seq": seq, "at": at or "2026-11-22T10:00:00.123Z", "kind": kind, "subject": subject,
        "text": text, "data": {},
    }  # fmt: skip


def tell(
    visit: Visit,
    events: list[dict[str, Any]],
    generations: list[dict[str, Any]],
    at_once: int = 1_000,
) -> None:
    """Answer for the history, as admin/past.py would; never more than `at_once`, as it does where
    lists are long.
    """

    def answer(name: str, records: list[dict[str, Any]]) -> Callable[[Route], None]:
        def fulfil(route: Route) -> None:
            asked = dict(parse_qsl(urlsplit(route.request.url).query))
            asked["limit"] = str(min(int(asked["limit"]), at_once))
            route.fulfill(json={name: _selected(records, asked)})

        return fulfil

    visit.page.route("**/api/v1/events*", answer("events", events))
    visit.page.route("**/api/v1/history*", answer("generations", generations))


def _selected(records: list[dict[str, Any]], asked: dict[str, str]) -> list[dict[str, Any]]:
    oldest_first = sorted(records, key=lambda one: int(one["seq"]))
    limit = int(asked["limit"])
    if "at" in asked:
        return [one for one in oldest_first if one["at"] <= asked["at"]][-1:]
    if "after" in asked:
        return [one for one in oldest_first if one["seq"] > int(asked["after"])][:limit]
    if "since" in asked:
        return [one for one in oldest_first if one["at"] >= asked["since"]][:limit]
    newest_first = oldest_first[::-1]
    if "before" in asked:
        return [one for one in newest_first if one["seq"] < int(asked["before"])][:limit]
    if "until" in asked:
        return [one for one in newest_first if one["at"] <= asked["until"]][:limit]
    return newest_first[:limit]
