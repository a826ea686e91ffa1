"""What keeps a page from somebody, found in the page as the browser has laid it out.

Rules by their WCAG 2.2 success criteria: 1.1.1 and 4.1.2 names of images and controls, 1.3.1
structure, 1.4.3 contrast, 2.4.1 and 2.4.2 landmarks and title, 2.5.8 size of targets, 3.1.1 the
language. The rules themselves are in accessibility.js.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

_MOST_STOPS = 400
_FINDINGS = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


def findings(page: Page) -> list[str]:
    """One line each; empty where nothing was found."""
    found: list[str] = page.evaluate(_FINDINGS)
    return found


def tab_stops(page: Page) -> list[str]:
    """Where Tab leads from the top of the page until it comes round: id, or tag and name. Raises
    AssertionError where one of them does not show that it has the focus.
    """
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    stops: list[str] = []
    for _ in range(_MOST_STOPS):
        page.keyboard.press("Tab")
        name, visible = page.evaluate(
            """() => {
              const at = document.activeElement;
              if (at === document.body) return ["", true];
              const style = getComputedStyle(at);
              const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
              const name = at.tagName.toLowerCase() + " " + (at.ariaLabel || at.textContent);
              return [at.id || name, ring];
            }"""
        )
        if not name or name in stops[:1]:
            return stops
        assert visible, f"{name} has the focus and does not show it"
        stops.append(name)
    raise AssertionError(f"Tab does not come round: {stops[-5:]}")
