"""The dashboard of a real stack on the local runtime, while things happen to it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.pages import go, names, row
from tests.support.cli import Wrk, get
from tests.support.deadlines import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.browser.conftest import Visiting
    from tests.support.browser import Visit
    from tests.support.cli import Cli


@pytest.fixture
def seen(stack: Cli, visit: Visiting) -> Iterator[Visit]:
    with visit(stack.admin_url) as page:
        go(page)
        yield page


def events(seen: Visit) -> str:
    return "\n".join(seen.texts("#events li"))


def directory(stack: Cli, name: str) -> Path:
    backends = stack.state / stack.project / "backends"
    [found] = [one for one in backends.iterdir() if one.name == name or name in _words(one)]
    return found


def _words(backend: Path) -> str:
    return (backend / "backend.json").read_text(encoding="utf-8")


def test_a_scale_up_under_load(stack: Cli, seen: Visit) -> None:
    rows = seen.page.locator("#table tbody tr[data-state=up]")
    expect(rows).to_have_count(3)
    wrk = Wrk(stack.url + "/", seconds=8, connections=4)
    stack.ok("scale", "5")
    expect(rows).to_have_count(5)
    assert names(seen) == [one["name"] for one in stack.backends()]
    figure = seen.page.locator(".tile[data-series=requests_per_second] .figure")
    expect(figure).not_to_have_text("0")
    expect(seen.page.locator(".tile[data-series=p99_ms] .figure")).to_contain_text("ms")
    newest = stack.backends()[-1]["name"]
    expect(seen.page.locator("#events")).to_contain_text(newest)
    expect(seen.page.locator("#then")).to_contain_text("5 in rotation")
    assert wrk.finish().failed == 0


def test_back_in_time(stack: Cli, seen: Visit) -> None:
    """By the product's own history: three, before there were five."""
    then = seen.page.locator("#then")
    expect(then).to_contain_text("in force now")
    stack.ok("scale", "4")
    expect(then).to_contain_text("in force now: 4 in rotation")
    past = json.loads(get(f"{stack.admin_url}/api/v1/history?limit=50"))["generations"]
    five = next(one for one in past if len(one["members"]) == 5)
    while f"Generation {five['generation']}," not in then.inner_text():
        seen.page.get_by_role("button", name="One generation back").click()
    shown = seen.texts("#members tbody tr:not(.left) th")
    assert sorted(shown) == sorted(one["name"] for one in five["members"])
    assert "gone" in seen.texts("#members .state")


def test_a_death_and_what_follows(stack: Cli, seen: Visit) -> None:
    victim = stack.backends()[0]["name"]
    pid = int((directory(stack, victim) / "nginx.pid").read_text())
    expect(row(seen, victim)).to_have_attribute("data-state", "up")
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    for each in map(int, workers):
        os.kill(each, signal.SIGSTOP)  # it stays: killed, it would be there again at once
    try:
        expect(row(seen, victim)).to_have_attribute("data-state", "down")
        assert "timed out" in row(seen, victim).inner_text()
        assert "bad" in str(seen.page.locator(".tile").first.get_attribute("class"))
        expect(seen.page.locator("#events li[data-kind=down]").first).to_contain_text(victim)
    finally:
        for each in map(int, workers):
            os.kill(each, signal.SIGCONT)
    expect(row(seen, victim)).to_have_attribute("data-state", "up")
    os.kill(pid, signal.SIGKILL)
    pid_file = directory(stack, victim) / "nginx.pid"
    until(lambda: int(pid_file.read_text()) != pid)
    expect(row(seen, victim)).to_have_attribute("data-state", "up")
    expect(seen.page.locator("#events li")).not_to_have_count(0)


def test_drain_and_undrain_by_its_own_button(stack: Cli, seen: Visit) -> None:
    name = stack.backends()[-1]["name"]
    token = (stack.state / stack.project / "admin-token").read_text().strip()
    seen.page.get_by_role("button", name=f"Drain {name}", exact=True).click()
    seen.page.get_by_label("Token", exact=True).fill(token)
    seen.page.keyboard.press("Enter")
    expect(row(seen, name)).to_have_attribute("data-state", "draining")
    expect(seen.page.locator("#outcome")).to_have_text(f"{name} is drained.")
    assert name not in [one["name"] for one in stack.backends()]
    expect(row(seen, name).locator(".part-reason")).to_contain_text("drained by hand")
    expect(seen.page.locator("#events li[data-kind=drain]").first).to_contain_text(name)
    seen.page.get_by_role("button", name=f"Undrain {name}", exact=True).click()
    expect(row(seen, name)).to_have_attribute("data-state", "up")
    expect(seen.page.locator("#outcome")).to_contain_text(f"{name} may serve again")


def test_it_comes_back_after_the_controller_was_killed(stack: Cli, seen: Visit) -> None:
    seen.may_lose = True
    [controller] = stack.processes("controller")
    [supervisor] = stack.processes("supervisor")
    os.kill(supervisor, signal.SIGSTOP)  # so that the next controller takes its time
    try:
        os.kill(controller, signal.SIGKILL)
        expect(seen.page.locator("#link-word")).to_have_text("Connection lost, trying again")
        expect(seen.page.locator("#link-age")).to_contain_text("s ago")
        assert seen.evaluate("document.body.classList.contains('stale')")
        assert len(names(seen)) > 0  # what was known stays
    finally:
        os.kill(supervisor, signal.SIGCONT)
    expect(seen.page.locator("#link-word")).to_have_text("Live")
    assert not seen.evaluate("document.body.classList.contains('stale')")
    until(lambda: stack.processes("controller") not in ([], [controller]))
    [after] = stack.processes("controller")
    expect(seen.page.locator("#processes")).to_contain_text(str(after))
    assert names(seen) == [one["name"] for one in stack.status()["backends"]]


def test_the_page_of_a_backend_through_the_lb(stack: Cli, visit: Visiting) -> None:
    with visit(stack.url) as seen:
        seen.go()
        expect(seen.page.locator("#link")).to_have_text("Live")
        ips = [one["ip"] for one in stack.backends()]
        expect(seen.page.locator("tbody th")).to_have_text(ips)
        # One after the other answers: each of them is marked once.
        for ip in ips:
            expect(seen.page.locator("tr.answered th")).to_have_text(ip)
