"""The page that a backend serves to a browser, in Chromium, from a real nginx."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.support.accessibility import findings, tab_stops
from tests.support.browser import PHONE
from tests.support.contract import Backend
from tests.support.nginx import RunningNginx, running_nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.browser.conftest import Shot, Visiting

IP = "127.81.40.1"
HOSTILE = ["<script>alert(1)</script>", '\n{"forged":1}', "<img src=x onerror=alert(1)>", "a" * 200]


@pytest.fixture
def nginx() -> Iterator[RunningNginx]:
    with running_nginx(IP) as running:
        yield running


def publish(nginx: RunningNginx, generation: int, *names: str) -> None:
    rows = [
        {"ip": f"127.81.40.{n}", "id": f"id-{n}", "name": name, "since": "2026-11-22T10:00:00.123Z"}
        for n, name in enumerate(names, 1)
    ]
    document = {
        "generation": generation, "updated_at": "2026-11-22T10:00:00.123Z", "backends": rows,
    }  # fmt: skip
    assert (
        Backend(nginx.ip, nginx.token).put(json.dumps(document).encode(), "/ips.json").status < 300
    )


def test_it_shows_the_list_and_who_answered(
    nginx: RunningNginx, visit: Visiting, shot: Shot
) -> None:
    publish(nginx, 7, "shop-backend-1", "shop-backend-2", "shop-backend-3")
    with visit(f"http://{IP}:8080/", viewport={"width": 900, "height": 470}) as seen:
        page = seen.page
        seen.go()
        expect(page.locator("#link")).to_have_text("Live")
        assert seen.texts("tbody th") == ["127.81.40.1", "127.81.40.2", "127.81.40.3"]
        assert seen.text("#by") == IP
        assert seen.text("#generation") == "7"
        expect(page.locator("tr.answered th")).to_have_text(IP)
        expect(page.locator("tr.answered td").last).not_to_have_text("1")  # it asks again
        publish(nginx, 8, "shop-backend-1")
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.locator("#generation")).to_have_text("8")
        publish(nginx, 9, *(f"shop-backend-{n}" for n in range(1, 6)))
        expect(page.locator("tbody tr")).to_have_count(5)
        shot(seen, "backend-page")


def test_names_are_text(nginx: RunningNginx, visit: Visiting) -> None:
    publish(nginx, 7, *HOSTILE)
    with visit(f"http://{IP}:8080/", viewport=PHONE) as seen:
        seen.go()
        expect(seen.page.locator("tbody tr")).to_have_count(len(HOSTILE))
        shown = seen.evaluate(
            "[...document.querySelectorAll('tbody td:nth-of-type(1)')].map(n => n.textContent)"
        )
        assert shown == HOSTILE
        assert seen.page.locator("tbody script, tbody img").count() == 0
        assert seen.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_for_everybody(nginx: RunningNginx, visit: Visiting, scheme: str) -> None:
    publish(nginx, 7, "shop-backend-1", "shop-backend-2")
    for viewport in (PHONE, {"width": 1200, "height": 800}):
        with visit(f"http://{IP}:8080/", viewport=viewport, color_scheme=scheme) as seen:
            seen.go()
            expect(seen.page.locator("tbody tr")).to_have_count(2)
            assert findings(seen.page) == []
            assert len(tab_stops(seen.page)) == 2  # the links
            assert seen.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_a_backend_that_stands_still_is_told(nginx: RunningNginx, visit: Visiting) -> None:
    publish(nginx, 7, "shop-backend-1")
    with visit(f"http://{IP}:8080/") as seen:
        seen.may_lose = True
        seen.go()
        expect(seen.page.locator("#link")).to_have_text("Live")
        file = nginx.site.directory / "www" / "ips.json"
        kept = file.read_bytes()
        file.write_bytes(b'{"half')
        expect(seen.page.locator("#link")).to_contain_text("trying again")
        expect(seen.page.locator("tbody tr")).to_have_count(1)  # what was known stays
        file.write_bytes(kept)
        expect(seen.page.locator("#link")).to_have_text("Live")
        nginx.process.send_signal(signal.SIGTERM)
        expect(seen.page.locator("#link")).to_contain_text("trying again")


def test_without_scripts_there_is_the_list_all_the_same(
    nginx: RunningNginx, visit: Visiting
) -> None:
    backend = Backend(nginx.ip, nginx.token)
    backend.put(b"10.0.0.1\n10.0.0.2\n")
    with visit(f"http://{IP}:8080/", java_script_enabled=False) as seen:
        seen.go()
        text = seen.page.frame_locator("iframe").locator("body")
        expect(text).to_contain_text("10.0.0.2")
        backend.put(b"10.0.0.9\n")
        expect(text).to_contain_text("10.0.0.9")  # it is loaded again by itself
