"""Chromium, as a reader of the product's pages has it; and what no page may do."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from playwright.sync_api import Error, expect, sync_playwright

from lbctl.errors import MachineError
from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-lcd-text", "--enable-precise-memory-info", "--js-flags=--expose-gc",
]  # fmt: skip
_LOST = "Failed to load resource: net::ERR_"
# Networks of this machine come and go, with the containers of other tests, and Chromium breaks off
# what it is loading. The pages have to bear it as they bear any loss.
_NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1440, "height": 900}
expect.set_options(timeout=scaled(10) * 1000)


def find_chromium() -> str:
    """Its path. Raises MachineError where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise MachineError("no chromium here: apt-get install chromium")
    return path


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """One page of one server, and everything about it that must not be."""

    page: Page
    origin: str
    may_lose: bool = False  # connections break off in this test: the browser says so
    problems: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        self.page.on("request", lambda request: self._request(request.url))
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))

    def _console(self, message: ConsoleMessage) -> None:
        lost = self.may_lose and message.text.startswith(_LOST)
        lost = lost or _NETWORK_CHANGED in message.text
        if message.type in ("error", "warning") and not lost:
            self.problems.append(f"{message.type}: {message.text}")

    def _request(self, url: str) -> None:
        if url.startswith(("data:", "blob:")):
            return
        there = urlsplit(url)
        if f"{there.scheme}://{there.netloc}" != self.origin:
            self.problems.append(f"request to elsewhere: {url}")

    def go(self, path: str = "/") -> None:
        for _ in range(5):
            with contextlib.suppress(Error):
                self.page.goto(self.origin + path)
                return
        self.page.goto(self.origin + path)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)


@contextlib.contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A page of its own in a context of its own; whatever it did wrong fails the test at its end.

    `options` are those of Browser.new_context.
    """
    there = urlsplit(url)
    context: BrowserContext = browser.new_context(**({"viewport": DESK} | options))
    context.set_default_timeout(scaled(10) * 1000)
    try:
        visit = Visit(context.new_page(), f"{there.scheme}://{there.netloc}")
        visit.watch()
        try:
            yield visit
        except BaseException as error:
            error.add_note(f"what the page did wrong: {visit.problems}")
            raise
        assert visit.problems == []
    finally:
        context.close()
