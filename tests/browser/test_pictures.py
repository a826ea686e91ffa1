"""Pictures of the dashboard for the documentation: `make screenshots`."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from lbctl.model import State
from tests.browser.pages import event, generation, go, row, tell
from tests.support.browser import PHONE
from tests.unit.admin.fakes import BUCKETS, backend_status, traffic

if TYPE_CHECKING:
    from tests.browser.conftest import Shot, Visiting
    from tests.unit.admin.port import Port
    from tests.unit.admin.test_api import Admin

SCREEN = {"width": 1400, "height": 610}


CHANCE = random.Random(7)


def measured(second: int) -> dict[str, float]:
    """What might have been measured then: one backend fails for some seconds, and goes."""
    ill = max(0.0, 1 - abs(second - 92) / 7)
    return {
        "requests_per_second": 4300 + 700 * math.sin(second / 40) + CHANCE.gauss(0, 90),
        "error_ratio": round(0.023 * ill * CHANCE.uniform(0.8, 1.2), 5),
        "p50_ms": 0.58 + 0.03 * math.sin(second / 25) + CHANCE.gauss(0, 0.012),
        "p99_ms": 3.1 + abs(CHANCE.gauss(0, 0.5)) + 8 * ill,
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dashboard-light", {"color_scheme": "light", "viewport": SCREEN}),
        ("dashboard-dark", {"color_scheme": "dark", "viewport": SCREEN}),
        ("dashboard-phone", {"color_scheme": "light", "viewport": PHONE}),
    ],
)
def test_pictures(
    port: Port, visit: Visiting, shot: Shot, name: str, options: dict[str, Any]
) -> None:
    now = datetime.now(UTC)
    states = [State.UP] * 6 + [State.EJECTED, State.DRAINING]
    reasons = {
        State.EJECTED: "5 answers with 5xx in a row: out for 30 s",
        State.DRAINING: f"drained by hand at {now - timedelta(minutes=4):%Y-%m-%d %H:%M:%S} UTC",
    }

    def fill(admin: Admin) -> None:
        admin.scaler.replicas = 8
        admin.fleet.generation = 14
        admin.fleet.rows = [
            replace(
                backend_status(f"shop-backend-{n}", state=state, reason=reasons.get(state, ""),
                               published=14),
                ip=f"172.18.0.{n + 2}", since=now - timedelta(seconds=13 * n**3),
                last_check=f"passed in {n % 3 + 1} ms",
            )
            for n, state in enumerate(states, 1)
        ]  # fmt: skip
        assert admin.server._sampler is not None
        admin.server._sampler.cancel()  # the minutes are made up, and so are the beats
        admin.fleet.updated_at = now - timedelta(seconds=95)
        for second in range(180):
            admin.server._overview.series.add(measured(second))
        for n, each in enumerate(admin.fleet.rows):
            busy = n if each.state is State.UP else 0
            admin.traffic.backends[each.id] = traffic(each.name, in_flight=busy)

    def serve(admin: Admin) -> None:
        overview = admin.server._overview
        overview._window.observe(time.monotonic() - 5, admin.traffic.totals())
        for n, each in enumerate(admin.fleet.rows):
            if each.state is State.UP:
                ok = 3650 + 115 * n
                buckets = [ok * 45 // 100, ok * 40 // 100, ok * 12 // 100, ok * 3 // 100]
                admin.traffic.backends[each.id] = traffic(
                    each.name, ok=ok, in_flight=n, buckets=[*buckets, *[0] * (BUCKETS - 4)]
                )
        overview.series.add(measured(180))
        admin.server._live.beat()

    def ago(seconds: int) -> str:
        return (now - timedelta(seconds=seconds)).isoformat()

    happened = [
        (95, "eject", "shop-backend-7", "5 answers with 5xx in a row, out for 30 s"),
        (95, "publish", "generation 14", "on all 6 backends in 28 ms"),
        (240, "drain", "shop-backend-8", "by hand"),
        (240, "publish", "generation 13", "on all 7 backends in 31 ms"),
        (402, "join", "shop-backend-8", ""),
        (402, "publish", "generation 12", "on all 8 backends in 34 ms"),
        (431, "scale", "", "from 7 to 8 backends"),
        (2210, "leader", "b", "leads now"),
    ]
    events = [
        event(90 - n, kind, text, subject, ago(seconds))
        for n, (seconds, kind, subject, text) in enumerate(happened)
    ]
    members = [
        {"id": f"id-shop-backend-{n}", "name": f"shop-backend-{n}", "ip": f"172.18.0.{n + 2}",
         "since": ago(13 * n**3)}
        for n in range(1, 9)
    ]  # fmt: skip
    generations = [
        generation(number, members[:count], reason=reason) | {"at": ago(seconds)}
        for number, seconds, reason, count in (
            (14, 95, "shop-backend-7 was ejected", 6),
            (13, 240, "shop-backend-8 was drained", 7),
            (12, 402, "shop-backend-8 joined", 8),
        )
    ]
    port.do(fill)
    with visit(port.url, **options) as seen:
        tell(seen, events, generations)
        go(seen)
        port.do(serve)
        expect(row(seen, "shop-backend-6").locator(".cell-in_flight")).to_have_text("5")
        expect(seen.page.locator("#events li")).to_have_count(len(events))
        shot(seen, name)
