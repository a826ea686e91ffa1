"""The dashboard in Chromium, over a real admin port with fakes behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from lbctl.errors import OperationError
from lbctl.model import HealingState, HealingStatus, State
from tests.browser.pages import event, fleet, generation, go, member, names, row, tell
from tests.support.accessibility import findings, tab_stops
from tests.support.browser import PHONE, Visit
from tests.support.deadlines import until
from tests.unit.admin.fakes import BUCKETS, backend_status, traffic
from tests.unit.admin.test_api import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.browser.conftest import Visiting
    from tests.unit.admin.port import Port
    from tests.unit.admin.test_api import Admin

NONE = "\u2013"
HOSTILE = ["<script>alert(1)</script>", '\n{"forged":1}', "<img src=x onerror=alert(1)>", "a" * 200]


@pytest.fixture
def seen(port: Port, visit: Visiting) -> Iterator[Visit]:
    """The dashboard, live, over b-1 (up) and b-2 (down)."""
    with visit(port.url) as page:
        tell(page, [], [])
        go(page)
        yield page


# What it shows


def test_it_shows_the_stack_and_every_backend(seen: Visit) -> None:
    assert seen.text("#project") == "shop"
    assert seen.text("#in-rotation") == "1"
    assert "generation 7" in seen.text("#generation")
    assert seen.page.title() == "1/2 up · shop · lbctl"
    assert names(seen) == ["b-1", "b-2"]
    up, down = row(seen, "b-1"), row(seen, "b-2")
    expect(up.locator(".part-state")).to_have_text("up")
    expect(up.locator(".cell-in_flight")).to_have_text("2")
    expect(up.locator(".cell-published_generation")).to_have_text("7")
    expect(down.locator(".part-state")).to_have_text("down")
    expect(down.locator(".part-reason")).to_have_text("answered 503")
    expect(down.locator(".part-last_check")).to_have_text("passed")
    assert seen.texts("#processes tbody th") == ["supervisor", "worker-1"]


def test_what_changes_is_shown_as_it_does(port: Port, seen: Visit) -> None:
    def change(admin: Admin) -> None:
        admin.fleet.rows = [
            backend_status("b-2", state=State.EJECTED, reason="5 times 5xx in a row"),
            backend_status("b-3", published=6),
        ]
        admin.fleet.generation = 8
        admin.traffic.backends["id-b-3"] = traffic("b-3", in_flight=17)
        admin.scaler.replicas = 3
        admin.scaler.healing = HealingStatus(HealingState.GAVE_UP, "3 newcomers\nwere of no use")

    port.do(change)
    expect(row(seen, "b-3").locator(".cell-in_flight")).to_have_text("17")
    assert names(seen) == ["b-2", "b-3"]
    expect(row(seen, "b-2").locator(".part-state")).to_have_text("ejected")
    expect(row(seen, "b-3").locator(".behind")).to_have_text("6")
    assert seen.text("#wanted") == "of 3 wanted"
    assert "gave up" in seen.text("#notices")
    port.do(lambda admin: setattr(admin.scaler, "healing", HealingStatus(HealingState.IDLE)))
    expect(seen.page.locator("#notices .notice")).to_have_count(0)


def test_figures_and_their_last_minutes(port: Port, visit: Visiting) -> None:
    """They are there at once in a page that is opened later."""

    def serve(admin: Admin) -> None:
        before = sum(admin.traffic.backends["id-b-1"].codes)
        one = traffic("b-1", ok=before + 200, buckets=[before + 200, *[0] * (BUCKETS - 1)])
        admin.traffic.backends["id-b-1"] = replace(one, codes=(0, before + 150, 0, 0, 50))

    tiles = ".tile[data-series=%s]"
    with visit(port.url) as early:
        tell(early, [], [])
        go(early)
        expect(early.page.locator(tiles % "p50_ms" + " .figure")).to_have_text(NONE)
        port.do(serve)
        expect(early.page.locator(tiles % "p50_ms" + " .figure")).to_have_text("0.25 ms")
        expect(early.page.locator(tiles % "p99_ms" + " .figure")).to_have_text("0.50 ms")
        expect(early.page.locator(tiles % "error_ratio" + " .figure")).to_have_text("25.0 %")
        with visit(port.url) as late:
            tell(late, [], [])
            go(late)
            line = late.page.locator(tiles % "requests_per_second" + " .line")
            assert str(line.get_attribute("d")).count("L") >= 1
            assert "peak" in late.text(tiles % "requests_per_second" + " .aside")


# Sorting, filtering


def test_it_sorts_by_every_column_and_says_so(port: Port, seen: Visit) -> None:
    port.do(lambda admin: fleet(admin, 12))
    expect(seen.page.locator("#table tbody tr")).to_have_count(12)
    natural = [f"shop-backend-{n}" for n in range(1, 13)]
    assert names(seen) == natural
    head = seen.page.locator("#table thead th").first
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names(seen) == natural[::-1]

    def load(admin: Admin) -> None:
        for n in range(1, 13):
            admin.traffic.backends[f"id-shop-backend-{n}"] = traffic("", in_flight=n * 7 % 12)

    port.do(load)
    expect(row(seen, "shop-backend-1").locator(".cell-in_flight")).to_have_text("7")
    for button in seen.page.locator("#table thead button").all():
        button.click()
        assert len(set(names(seen))) == 12
    seen.page.get_by_role("button", name="In flight").click()
    expect(seen.page.locator("#table tbody .cell-in_flight").first).to_have_text("11")


def test_it_filters_by_words_of_any_column(port: Port, seen: Visit) -> None:
    def fill(admin: Admin) -> None:
        fleet(admin, 12)
        admin.fleet.rows[3] = replace(admin.fleet.rows[3], state=State.DOWN, reason="Refused")

    port.do(fill)
    expect(seen.page.locator("#count")).to_have_text("12 known")
    box = seen.page.get_by_role("searchbox", name="Filter backends")
    box.fill("backend-1")
    assert names(seen) == ["shop-backend-1", *(f"shop-backend-{n}" for n in (10, 11, 12))]
    assert seen.text("#count") == "4 of 12"
    box.fill("down refused")
    assert names(seen) == ["shop-backend-4"]
    port.do(lambda admin: fleet(admin, 12))
    expect(seen.page.locator("#count")).to_have_text("0 of 12")  # it heeds the filter as it changes
    box.fill("")
    assert len(names(seen)) == 12


# What others chose


@pytest.mark.parametrize("viewport", [None, PHONE])
def test_whatever_a_backend_is_called_is_text(
    port: Port, visit: Visiting, viewport: dict[str, int] | None
) -> None:
    def name(admin: Admin) -> None:
        admin.fleet.rows = [
            replace(
                backend_status(text, state=State.DOWN, reason=text, id_=f"id-{n}"),
                last_check=text, ip=text[:40],
            )
            for n, text in enumerate(HOSTILE)
        ]  # fmt: skip
        admin.scaler.healing = HealingStatus(HealingState.WAITING, "".join(HOSTILE))

    port.do(name)
    events = [event(n, "join", text, text) for n, text in enumerate(HOSTILE)]
    members = [
        {"id": f"id-{n}", "name": text, "ip": text, "since": "2026-11-22T10:00:00.123Z"}
        for n, text in enumerate(HOSTILE)
    ]
    options = {"viewport": viewport} if viewport else {}
    with visit(port.url, **options) as seen:
        tell(seen, events, [generation(7, members, reason="".join(HOSTILE))])
        go(seen)
        assert sorted(names(seen)) == sorted(HOSTILE)
        expect(seen.page.locator("#events li")).to_have_count(len(HOSTILE))
        expect(seen.page.locator("#members tbody tr")).to_have_count(len(HOSTILE))
        assert seen.page.locator("main script, main img").count() == 0
        assert seen.evaluate("typeof forged") == "undefined"
        assert seen.evaluate("document.documentElement.scrollWidth <= innerWidth")


# The past


def test_it_goes_back_in_time(port: Port, visit: Visiting) -> None:
    past = [
        generation(7, [member(1)], reason="b-2 and b-9 left", left="b-2 b-9"),
        generation(6, [member(1), member(2), member(9)], reason="b-9 joined", joined="b-9"),
        generation(5, [member(1), member(2)], reason="b-2 joined", joined="b-2"),
    ]
    with visit(port.url, timezone_id="UTC") as seen:
        tell(seen, [], past)
        go(seen)
        then, change = seen.page.locator("#then"), "#members tbody td:nth-of-type(3)"
        back = seen.page.get_by_role("button", name="One generation back")
        expect(then).to_contain_text("Generation 7")
        expect(then).to_contain_text("in force now: 1 in rotation. b-2 and b-9 left")
        expect(seen.page.locator("#members tbody th")).to_have_text(["b-1", "b-2", "b-9"])
        assert seen.texts(change) == ["", "left", "left"]
        back.click()
        expect(then).to_contain_text("Generation 6, from 22 Nov 10:06:00 to 22 Nov 10:07:00")
        assert seen.texts(change) == ["", "", "joined"]
        assert seen.texts("#members .state") == ["up", "down", "gone"]
        seen.page.get_by_role("slider", name="Generation").focus()
        seen.page.keyboard.press("Home")
        expect(then).to_contain_text("Generation 5")
        expect(back).to_be_disabled()
        seen.page.get_by_label("At", exact=True).fill("2026-11-22T10:06:30")
        expect(then).to_contain_text("Generation 6")
        seen.page.get_by_label("At", exact=True).fill("2020-01-01T00:00:00")
        expect(then).to_have_text("Nothing is known of that time.")
        seen.page.get_by_role("button", name="Now").click()
        expect(then).to_contain_text("Generation 7")
        # It stays where somebody looks, and follows who looks at the present.
        past.insert(0, generation(8, [member(1), member(2)], joined="b-2"))
        port.do(lambda admin: setattr(admin.fleet, "generation", 8))
        expect(then).to_contain_text("Generation 8")
        back.click()
        past.insert(0, generation(9, [member(1)], left="b-2"))
        port.do(lambda admin: setattr(admin.fleet, "generation", 9))
        expect(then).to_contain_text("Generation 7, from 22 Nov 10:07:00 to 22 Nov 10:08:00")


def test_generations_that_began_anew_are_told_apart(port: Port, visit: Visiting) -> None:
    """As after a loss of the membership's file: what has a number once has it twice."""
    past = [
        generation(minute, [member(minute)]) | {"generation": number}
        for minute, number in enumerate((1, 2, 3, 1, 2, 3))
    ]
    with visit(port.url, timezone_id="UTC") as seen:
        tell(seen, [], past)
        go(seen)
        then = seen.page.locator("#then")
        seen.page.get_by_label("At", exact=True).fill("2026-11-22T10:04:30")
        expect(then).to_contain_text("Generation 2, from 22 Nov 10:04:00 to 22 Nov 10:05:00")
        expect(seen.page.locator("#members tbody th")).to_have_text(["b-4"])
        for step in ("10:03:00", "10:02:00", "10:01:00"):
            seen.page.get_by_role("button", name="One generation back").click()
            expect(then).to_contain_text(f"from 22 Nov {step}")


def test_a_short_page_of_very_long_lists_is_not_the_end(port: Port, visit: Visiting) -> None:
    past = [generation(n, [member(k) for k in range(5_500)]) for n in range(6)]
    with visit(port.url, timezone_id="UTC") as seen:
        tell(seen, [], past, at_once=3)
        go(seen)
        then = seen.page.locator("#then")
        expect(then).to_contain_text("Generation 5, ")
        slider = seen.page.get_by_role("slider", name="Generation")
        for number in (3, 0):
            slider.focus()
            seen.page.keyboard.press("Home")
            expect(then).to_contain_text(f"Generation {number},")
        expect(seen.page.get_by_role("button", name="One generation back")).to_be_disabled()


def test_a_long_past_is_loaded_as_somebody_goes_there(port: Port, visit: Visiting) -> None:
    past = [generation(n, [member(1)]) for n in range(59)]
    with visit(port.url, timezone_id="UTC") as seen:
        tell(seen, [], past)
        go(seen)
        then, slider = (
            seen.page.locator("#then"),
            seen.page.get_by_role("slider", name="Generation"),
        )
        expect(then).to_contain_text("Generation 58")
        for oldest in (39 - 1, 19 - 1, 0):
            slider.focus()
            seen.page.keyboard.press("Home")
            expect(then).to_contain_text(f"Generation {max(oldest + 1, 0) if oldest else 0},")
        expect(seen.page.get_by_role("button", name="One generation back")).to_be_disabled()
        seen.page.get_by_label("At", exact=True).fill("2026-11-22T10:30:30")
        expect(then).to_contain_text("Generation 30,")
        for number in (31, 32):
            seen.page.get_by_role("button", name="One generation on").click()
            expect(then).to_contain_text(f"Generation {number},")
        seen.page.keyboard.press("Tab")
        slider.focus()
        seen.page.keyboard.press("End")
        expect(then).not_to_contain_text("Generation 32,")
        seen.page.get_by_role("button", name="Now").click()
        expect(then).to_contain_text("Generation 58, from 22 Nov 10:58:00, in force now")


def test_the_timeline_grows_from_the_top(port: Port, visit: Visiting) -> None:
    events = [event(1, "join", "", "b-1")]
    with visit(port.url) as seen:
        tell(seen, events, [])
        go(seen)
        expect(seen.page.locator("#events li")).to_have_count(1)
        log = seen.page.get_by_role("log", name="Timeline")
        assert log.get_attribute("aria-live") == "polite"
        events.append(event(2, "eject", "5 times 5xx in a row", "b-3"))
        port.do(lambda admin: admin.fleet.rows.append(backend_status("b-3", state=State.EJECTED)))
        expect(seen.page.locator("#events li p").first).to_have_text(
            "eject b-3: 5 times 5xx in a row"
        )
        expect(seen.page.locator("#events li")).to_have_count(2)
        # Figures are no news to a screen reader.
        assert seen.page.locator("#figures [aria-live], #table [aria-live]").count() == 0


def end_streams(admin: Admin) -> None:
    for stream in admin.server._streams._open:
        stream.end()


def test_another_stack_in_the_same_place_has_another_past(port: Port, visit: Visiting) -> None:
    events = [event(n, "join", "", f"b-{n}") for n in range(40, 43)]
    past = [generation(8, [member(1)])]
    with visit(port.url) as seen:
        seen.may_lose = True
        tell(seen, events, past)
        go(seen)
        expect(seen.page.locator("#events li")).to_have_count(3)
        expect(seen.page.locator("#then")).to_contain_text("Generation 8")
        events[:] = [event(0, "leader", "leads now", "a")]
        past[:] = [generation(1, [member(1), member(2)])]
        port.do(end_streams)
        expect(seen.page.locator("#events li")).to_have_count(1)
        expect(seen.page.locator("#events li p")).to_have_text("leader a: leads now")
        expect(seen.page.locator("#then")).to_contain_text("Generation 1,")


def test_a_tab_that_nobody_sees_gives_its_connection_back(port: Port, visit: Visiting) -> None:
    def listeners(admin: Admin) -> int:
        return len(admin.server._live._listeners)

    with visit(port.url) as seen:
        tell(seen, [], [])
        seen.page.clock.install()
        go(seen)
        seen.evaluate(_SHOW, "hidden")
        assert port.do(listeners) == 1
        seen.page.clock.fast_forward(31_000)
        until(lambda: port.do(listeners) == 0)
        expect(seen.page.locator("#link-word")).to_have_text("At rest while nobody looks")
        seen.evaluate(_SHOW, "visible")
        expect(seen.page.locator("#link-word")).to_have_text("Live")
        until(lambda: port.do(listeners) == 1)


_SHOW = """(state) => {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


# Changes


def test_drain_asks_for_the_token_once_and_keeps_it_nowhere(port: Port, seen: Visit) -> None:
    sent: list[dict[str, str]] = []
    seen.page.on(
        "request",
        lambda request: sent.extend([request.all_headers()] if request.method == "POST" else []),
    )
    seen.page.get_by_role("button", name="Drain b-1").click()
    dialog = seen.page.get_by_role("dialog", name="Admin token")
    expect(dialog).to_be_visible()
    seen.page.keyboard.type("wrong")
    seen.may_lose = True  # a 401 is an error to the console; the next line looks at it
    seen.page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("This token was refused.")
    assert [problem for problem in seen.problems if "401" not in problem] == []
    seen.problems.clear()
    seen.page.keyboard.type(TOKEN)
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator("#outcome")).to_have_text("b-1 is drained.")
    assert sent[-1]["authorization"] == f"Bearer {TOKEN}"
    assert sent[-1]["content-type"] == "application/json"
    assert sent[-1]["origin"] == seen.origin
    assert port.do(lambda admin: admin.scaler.by_hand) == [("drain", "id-b-1")]

    def drained(admin: Admin) -> None:
        admin.fleet.rows[0] = backend_status(
            "b-1", state=State.DRAINING, reason="drained by hand at 2026-11-22 10:00:00 UTC"
        )

    port.do(drained)
    seen.page.get_by_role("button", name="Undrain b-1").click()
    expect(seen.page.locator("#outcome")).to_contain_text("b-1 may serve again")
    assert not dialog.is_visible()
    kept = seen.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href,"
        " document.documentElement.outerHTML, document.getElementById('token').value])"
    )
    assert TOKEN not in kept
    seen.page.get_by_role("button", name="Lock changes").click()
    seen.page.get_by_role("button", name="Drain b-2").click()
    expect(dialog).to_be_visible()
    seen.page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    assert len(port.do(lambda admin: admin.scaler.by_hand)) == 2
    seen.page.reload()
    assert seen.page.get_by_role("button", name="Unlock changes").is_visible()


def test_a_change_that_fails_says_why(port: Port, seen: Visit) -> None:
    port.do(
        lambda admin: setattr(admin.scaler, "error", OperationError("b-1 is the last in rotation"))
    )
    seen.page.get_by_role("button", name="Unlock changes").click()
    seen.page.get_by_label("Token", exact=True).fill(TOKEN)
    seen.page.keyboard.press("Enter")
    seen.page.get_by_role("button", name="Drain b-1").click()
    expect(seen.page.locator("#outcome")).to_have_text("drain b-1: b-1 is the last in rotation")
    assert [problem for problem in seen.problems if "409" not in problem] == []
    seen.problems.clear()


# For everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1100, 1440])
def test_it_is_for_everybody(port: Port, visit: Visiting, scheme: str, width: int) -> None:
    def fill(admin: Admin) -> None:
        admin.fleet.rows = [
            backend_status(f"b-{n}", state=state, reason="" if state is State.UP else "why not",
                           published=6 if state is State.UP else 7)
            for n, state in enumerate([*State, State.UP])
        ]  # fmt: skip
        admin.scaler.healing = HealingStatus(HealingState.GAVE_UP, "three newcomers")

    port.do(fill)
    kinds = ("join", "leave", "eject", "publish", "drain")
    events = [event(n, kind, "it did", "b") for n, kind in enumerate(kinds)]
    past = [
        generation(7, [member(1), member(3)], joined="b-3", left="b-2"),
        generation(6, [member(1), member(2)]),
    ]
    with visit(port.url, color_scheme=scheme, viewport={"width": width, "height": 800}) as seen:
        tell(seen, events, past)
        go(seen)
        expect(seen.page.locator("#events li")).to_have_count(5)
        expect(seen.page.locator("#members tbody tr")).to_have_count(3)
        assert findings(seen.page) == []
        assert seen.evaluate("document.documentElement.scrollWidth <= innerWidth")
        seen.page.get_by_role("button", name="Unlock changes").click()
        assert findings(seen.page) == []


def test_everything_is_reached_by_keyboard(port: Port, visit: Visiting) -> None:
    with visit(port.url) as seen:
        tell(seen, [], [generation(7, [member(1)], left="b-2"), generation(6, [member(1)])])
        go(seen)
        expect(seen.page.locator("#members tbody tr")).to_have_count(2)
        stops = tab_stops(seen.page)
        wanted = seen.evaluate(
            """[...document.querySelectorAll("a[href], button:enabled, input, select")]
               .filter(node => node.checkVisibility() && !node.closest("dialog")).length"""
        )
        regions = 2  # the timeline and the members scroll: they are stops too
        assert stops[0].startswith("a To the backends")
        # A field for a date is one stop for each of its parts.
        assert len(set(stops)) == wanted + regions
        # And the way that a change takes, without a mouse.
        seen.page.locator("#filter").focus()
        seen.page.keyboard.type("b-1")
        seen.page.get_by_role("button", name="Drain b-1").focus()
        seen.page.keyboard.press("Enter")
        expect(seen.page.locator("#token")).to_be_focused()
        seen.page.keyboard.type(TOKEN)
        seen.page.keyboard.press("Enter")
        expect(seen.page.locator("#outcome")).to_have_text("b-1 is drained.")
        expect(seen.page.get_by_role("button", name="Drain b-1")).to_be_focused()


def test_rows_stay_under_the_hand(port: Port, seen: Visit) -> None:
    """Who points at a row, or is in it by keyboard, must not meet another one there."""
    port.do(lambda admin: fleet(admin, 5))
    seen.page.get_by_role("button", name="In flight").click()
    seen.page.get_by_role("button", name="Drain shop-backend-1", exact=True).focus()

    def load(admin: Admin) -> None:
        admin.traffic.backends["id-shop-backend-5"] = traffic("", in_flight=9)

    port.do(load)
    expect(row(seen, "shop-backend-5").locator(".cell-in_flight")).to_have_text("9")
    assert names(seen)[0] == "shop-backend-1"
    seen.page.locator("#filter").focus()
    expect(seen.page.locator("#table tbody th").first).to_have_text("shop-backend-5")
