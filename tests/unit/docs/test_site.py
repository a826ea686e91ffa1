"""The documents as a site: every link leads somewhere, and nothing comes from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
# What a browser fetches by itself: a link that somebody follows is another thing.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|object|embed)\b[^>]*?\b(?:src|data)\s*=\s*"
    r"[\"']?\s*(?:https?:)?//[^\s\"'>]*"
    r"|<link\b(?![^>]*rel=[\"']?(?:canonical|next|prev))[^>]*?\bhref\s*=\s*[\"']?\s*(?:https?:)?//[^\s\"'>]*",
    re.IGNORECASE,
)
FETCHED_BY_STYLE = re.compile(r"(?:url\(\s*[\"']?|@import\s+[\"'])(?:https?:)?//[^)\"']*")


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=project,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once; a link or an anchor that leads nowhere fails here."""
    where = tmp_path_factory.mktemp("site")
    done = build(ROOT, where)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return where


def test_every_document_is_a_page(site: Path) -> None:
    for document in DOCS.rglob("*.md"):
        page = document.relative_to(DOCS).with_suffix(".html")
        if page.name == "README.html":
            page = page.with_name("index.html")
        assert (site / page).is_file(), page


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not FETCHED.search(text), page.name
        assert not FETCHED_BY_STYLE.search(text), page.name
        assert 'class="mermaid"' not in text, page.name  # the theme would fetch its program
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        assert not FETCHED_BY_STYLE.search(style.read_text(encoding="utf-8")), style.name


@pytest.mark.parametrize(
    "markup",
    [
        '<script async src="https://stats.example/x.js">',
        "<script src=//cdn.example/x.js>",
        '<link rel="stylesheet" href="https://fonts.example/css?family=Roboto">',
        '<link href="https://fonts.example" rel="preconnect">',
        '<img alt="" src="http://img.example/badge.svg">',
    ],
)
def test_what_would_be_fetched_is_noticed(markup: str) -> None:
    assert FETCHED.search(markup)


def test_and_so_is_what_a_style_would_fetch() -> None:
    assert FETCHED_BY_STYLE.search("src: url('https://fonts.example/a.woff2')")
    assert FETCHED_BY_STYLE.search('@import "//fonts.example/a.css"')
    assert not FETCHED_BY_STYLE.search("background: url(data:image/svg+xml,x)")


def test_links_for_people_are_left_alone() -> None:
    assert not FETCHED.search('<a href="https://toml.io">TOML</a>')
    assert not FETCHED.search('<script src="assets/x.js"></script><img src="picture.svg">')


@pytest.mark.parametrize(
    ("link", "built"), [("index.md#here", True), ("nowhere.md", False), ("index.md#nowhere", False)]
)
def test_a_link_that_leads_nowhere_fails(link: str, built: bool, tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    settings = (tmp_path / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
    (tmp_path / "docs").mkdir()
    text = f"# Here\n\n[there]({link})\n"
    (tmp_path / "docs" / "index.md").write_text(text, encoding="utf-8")
    done = build(tmp_path, tmp_path / "site")
    assert (done.returncode == 0) is built, done.stderr


def test_no_font_and_no_statistics_are_configured() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["theme"]["font"] is False
    assert "analytics" not in settings.get("extra", {})


def test_the_picture_says_what_it_shows_and_fetches_nothing() -> None:
    text = (DOCS / "picture.svg").read_text(encoding="utf-8")
    picture = ET.fromstring(text)  # noqa: S314 - our own
    assert picture.attrib["role"] == "img"
    assert picture.find("{http://www.w3.org/2000/svg}title") is not None
    assert "href" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_make_docs_is_strict() -> None:
    # With --quiet warnings are not counted, and --strict says nothing.
    rule = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndocs:")[2]
    command = rule.partition("\n\n")[0]
    assert "mkdocs build --strict" in command
    assert "--quiet" not in command
