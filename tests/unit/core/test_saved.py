from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.saved import Saved, from_document, to_document
from lbctl.model import Backend, Member, Membership

AT = datetime(2026, 11, 22, 10, 0, 0, 123_456, UTC)
SAVED = Saved(
    Membership(7, AT, (Member(Backend("a", "one", "10.0.0.1", publish=False, weight=3), AT),)), 12
)


def test_comes_back_as_it_went_through_json() -> None:
    assert from_document(json.loads(json.dumps(to_document(SAVED)))) == SAVED


def broken(**changes: Any) -> dict[str, Any]:
    return to_document(SAVED) | changes


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        "text",
        broken(generation=-1),
        broken(generation="7"),
        broken(revision=None),
        broken(revision=True),
        broken(updated_at="yesterday"),
        broken(updated_at="2026-11-22T10:00:00"),
        broken(updated_at=3),
        broken(members=None),
        broken(members=[1]),
        broken(members=[{"since": AT.isoformat(), "backend": {"id": [], "name": "", "ip": ""}}]),
        broken(members=[{"since": AT.isoformat(), "backend": {"id": "a", "colour": "red"}}]),
    ],
)
def test_anything_else_is_a_value_error(document: Any) -> None:
    with pytest.raises(ValueError, match="not a saved membership"):
        from_document(document)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_document_raises_anything_else(document: Any) -> None:
    with pytest.raises(ValueError, match="not a saved membership"):
        from_document(document)
