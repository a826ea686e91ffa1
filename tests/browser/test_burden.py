"""The dashboard with many backends, and left open for long."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect

from tests.browser.pages import fleet, go, tell
from tests.support.deadlines import SCALE
from tests.unit.admin.fakes import BUCKETS, traffic

if TYPE_CHECKING:
    from tests.browser.conftest import Visiting
    from tests.unit.admin.port import Port
    from tests.unit.admin.test_api import Admin

FAST = Path(__file__).with_name("fast.js")


def test_five_hundred_backends_are_no_burden(port: Port, visit: Visiting) -> None:
    """Every one of them with other figures in every second; sorted by one of these."""
    port.do(lambda admin: fleet(admin, 500))
    beat = 0

    def load(admin: Admin) -> None:
        nonlocal beat
        beat += 1
        for n, each in enumerate(admin.fleet.rows):
            ok = beat * (100 + n)
            buckets = [ok - n * beat // 9, n * beat // 9, *[0] * (BUCKETS - 2)]
            admin.traffic.backends[each.id] = traffic(
                each.name, ok=ok, in_flight=(beat * 31 + n * 17) % 50, buckets=buckets
            )

    with visit(port.url) as seen:
        tell(seen, [], [])
        go(seen)
        expect(seen.page.locator("#table tbody tr")).to_have_count(500)
        seen.page.get_by_role("button", name="In flight").click()
        seen.page.mouse.move(5, 5)
        seen.evaluate(_WATCH)
        session = seen.page.context.new_cdp_session(seen.page)
        session.send("Performance.enable")
        port.do(load)
        began, busy = seen.evaluate("performance.now()"), _busy_s(session)
        while seen.evaluate("frames.length") < 12:
            port.do(load)
            seen.page.wait_for_function(
                "n => frames.length > n", arg=seen.evaluate("frames.length")
            )
        seconds = (seen.evaluate("performance.now()") - began) / 1000
        spent = (_busy_s(session) - busy) * 1000 / seconds
        frames = sorted(seen.evaluate("frames"))
        median = frames[len(frames) // 2]
        print(
            f"500 backends that all change every second: {median:.1f} ms of script a frame (worst "
            f"{frames[-1]:.1f}), with layout {spent:.0f} ms of the main thread a second"
        )
        assert median < 50 * SCALE
        assert spent < 200 * SCALE


_WATCH = """
  window.frames = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntriesByName("frame")) window.frames.push(entry.duration);
  }).observe({ type: "measure" });
"""


def _busy_s(session: Any) -> float:
    """Of the main thread, since it began."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")


def test_left_open_for_a_day_it_does_not_grow(port: Port, visit: Visiting) -> None:
    """A day has 86,400 changes. They come as fast as the page takes them, from a stream in its
    place; among them backends that come and go.
    """
    with visit(port.url) as seen:
        seen.page.add_init_script(path=FAST)
        go(seen)
        heaps = []
        for _ in range(9):
            seen.evaluate("async () => { await pushChanges(9600); gc(); gc(); }")
            heaps.append(seen.evaluate("performance.memory.usedJSHeapSize"))
        nodes = seen.evaluate("document.querySelectorAll('*').length")
        first, last = heaps[1] / 2**20, heaps[-1] / 2**20
        print(f"86,400 changes: heap {first:.1f} MiB after 2 of 9 parts, {last:.1f} at the end")
        assert last < first + 1
        assert nodes < 3000
