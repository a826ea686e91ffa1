"""One browser a file of tests; each of them visits in a context of its own.

Playwright's event loop runs as long as the browser does, and another one cannot run beside it in
this thread: no test here is async, and none of another file starts before it has ended.
"""

from __future__ import annotations

import os
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import Visit, running_browser, visiting
from tests.support.cli import Cli
from tests.unit.admin.port import Port

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

    Visiting = Callable[..., contextlib.AbstractContextManager[Visit]]
    Shot = Callable[[Visit, str], None]

SETTINGS = {"LBCTL_WORKERS": "2", "LBCTL_PROBE_INTERVAL_S": "0.5"}
IMAGES = Path(__file__).parents[2] / "docs" / "images"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as one:
        yield one


@pytest.fixture
def visit(browser: Browser) -> Visiting:
    """`with visit(url) as page`; what the page did wrong fails the test."""
    return partial(visiting, browser)


@pytest.fixture
def port() -> Iterator[Port]:
    one = Port()
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def stack() -> Iterator[Cli]:
    """A real one on the local runtime, with three backends to begin with."""
    one = Cli(f"t{secrets.token_hex(4)}", "local", settings=SETTINGS)
    try:
        one.ok("up")
        yield one
    finally:
        one.clean()


@pytest.fixture
def shot(tmp_path: Path) -> Shot:
    """Takes a picture; into docs/images where LBCTL_SCREENSHOTS is set (`make screenshots`)."""
    directory = IMAGES if os.environ.get("LBCTL_SCREENSHOTS") else tmp_path

    def take(visit: Visit, name: str) -> None:
        directory.mkdir(exist_ok=True)
        file = directory / f"{name}.png"
        visit.page.screenshot(path=file)
        assert 5_000 < file.stat().st_size < 150_000

    return take
