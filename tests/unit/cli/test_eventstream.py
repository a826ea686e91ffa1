from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.admin.sse import encode
from lbctl.cli import eventstream
from lbctl.cli.eventstream import EventReader
from lbctl.errors import OperationError

STREAM = b"retry: 1000\n\nid: 1\nevent: down\ndata: {}\n\n: still here\n\ndata:a\ndata: b\n\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_whole_or_in_pieces(size: int) -> None:
    reader = EventReader()
    found = [
        text
        for start in range(0, len(STREAM), size)
        for text in reader.feed(STREAM[start : start + size])
    ]
    assert found == ["{}", "a\nb"]


@given(st.lists(st.dictionaries(st.text(), st.text())))
def test_what_was_sent_is_read(documents: list[dict[str, str]]) -> None:
    sent = b"".join(encode(json.dumps(one), "kind", str(n)) for n, one in enumerate(documents))
    assert [json.loads(text) for text in EventReader().feed(sent)] == documents


def test_an_event_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventstream, "LIMIT_BYTES", 100)
    reader = EventReader()
    assert reader.feed(b"data: " + b"x" * 90) == []
    with pytest.raises(OperationError, match="not lbctl's"):
        reader.feed(b"x" * 10)


@given(st.binary())
def test_no_bytes_are_an_error(data: bytes) -> None:
    EventReader().feed(data)
