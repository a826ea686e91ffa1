from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.text import printable


@given(st.text(), st.integers(3, 300))
def test_whatever_comes_it_is_one_short_printable_line(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit


@given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=50))
def test_what_is_harmless_stays(text: str) -> None:
    assert printable(text, 50) == text


def test_what_steers_a_terminal_or_forges_a_line_is_replaced() -> None:
    assert printable("a\x1b[31m\r\nb\u202ec\x9b") == "a?[31m??b?c?"


def test_what_is_too_long_ends_in_dots() -> None:
    assert printable("x" * 11, 10) == "xxxxxxx..."
