"""Counters that start anew, and their sum, which does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lbctl.core.tally import Tally, from_document, to_document
from lbctl.model import GuardCounts


def test_a_life_tells_all_since_its_beginning() -> None:
    tally = Tally().heard("a", GuardCounts(3, {"path": 1})).heard("a", GuardCounts(5, {"path": 2}))
    assert tally.total == GuardCounts(5, {"path": 2})


def test_what_an_earlier_life_told_stays() -> None:
    tally = Tally().heard("a", GuardCounts(5, {"path": 2, "body": 1}))
    tally = tally.heard("b", GuardCounts(1, {"path": 1}))
    assert tally.total == GuardCounts(6, {"path": 3, "body": 1})
    tally = tally.heard("c", GuardCounts())
    assert tally.total == GuardCounts(6, {"path": 3, "body": 1})


def test_it_outlives_whoever_keeps_it() -> None:
    tally = Tally().heard("a", GuardCounts(5, {"path": 2})).heard("b", GuardCounts(1))
    again = from_document(json.loads(json.dumps(to_document(tally))))
    assert again == tally
    assert again.heard("b", GuardCounts(2)).total == GuardCounts(7, {"path": 2})


GOOD = to_document(Tally("a", GuardCounts(1, {"path": 1})))


@pytest.mark.parametrize(
    "document",
    [
        None, [], {}, "x", {**GOOD, "now": None}, {**GOOD, "now": {"requests": "x", "refused": {}}},
        {**GOOD, "before": {"requests": 1, "refused": []}},
        {**GOOD, "before": {"requests": 1, "refused": {"path": None}}},
    ],
)  # fmt: skip
def test_what_is_no_such_document(document: Any) -> None:
    with pytest.raises(ValueError, match="no saved counters"):
        from_document(document)
