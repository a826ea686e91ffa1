"""The dashboard's files, as the admin port serves them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from lbctl.admin.pages import Pages
from tests.unit.admin.test_api import Admin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAMED = re.compile(r"""(?:src=|href=|from |import\(|url\()["']?([./\w-]+\.(?:js|css|svg))\b""")


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    async with Admin().served() as served:
        yield served


async def test_the_page_and_all_it_names_are_served(admin: Admin) -> None:
    status, page = await admin.ask("GET", "/")
    assert status == 200
    assert admin.headers["Content-Type"] == "text/html; charset=utf-8"
    waiting, seen = set(NAMED.findall(page)), set()
    while waiting:
        path = waiting.pop().replace("./", "/assets/")
        seen.add(path)
        status, text = await admin.ask("GET", path)
        assert status == 200, path
        waiting |= {
            name for name in NAMED.findall(text) if name.replace("./", "/assets/") not in seen
        }
    assert {f"/assets/{name}" for name in Pages().assets} == seen


async def test_each_has_its_type_and_the_policy(admin: Admin) -> None:
    for path, kind in (
        ("/", "text/html"), ("/assets/dashboard.js", "text/javascript"),
        ("/assets/dashboard.css", "text/css"), ("/assets/icon.svg", "image/svg+xml"),
    ):  # fmt: skip
        await admin.ask("GET", path)
        assert admin.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert admin.headers["Cache-Control"] == "no-store"
        policy = dict(
            part.strip().partition(" ")[::2]
            for part in admin.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert "unsafe" not in admin.headers["Content-Security-Policy"]


async def test_the_page_has_no_script_and_no_style_of_its_own(admin: Admin) -> None:
    """The policy would stop them."""
    _, page = await admin.ask("GET", "/")
    assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=|https?://", page)


async def test_no_script_makes_markup_of_text(admin: Admin) -> None:
    for name in Pages().assets:
        _, text = await admin.ask("GET", f"/assets/{name}")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|"
            r"localStorage|sessionStorage|document\.cookie|indexedDB",
            text,
        ), name


@pytest.mark.parametrize(
    "file",
    ["", "nothing.js", "index.html", "../api.py", "..%2fapi.py", "%2e%2e%2fapi.py", "a/b.js", ".",
     "%00", "dashboard.js%00", "DASHBOARD.JS", "%E2%82%AC.js", "x" * 5000],
)  # fmt: skip
async def test_nothing_else_is(admin: Admin, file: str) -> None:
    status, body = await admin.ask("GET", f"/assets/{file}")
    assert status == 404
    assert list(body) == ["error"]
