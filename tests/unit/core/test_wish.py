"""What is wanted, written down and read again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from lbctl.core.wish import Wish, from_document, to_document
from lbctl.model import Release, Rollout, RolloutState

ROLLOUT = Rollout(
    Release(4, "web:2"), Release(2, "web:1"), 3, 2, "web:2", RolloutState.ROLLING_BACK, 1, "why"
)
WISH = Wish(
    replicas=3,
    release=Release(2, "web:1"),
    configured="web:1",
    drained={"b-1": datetime(2026, 11, 22, 10, tzinfo=UTC)},
    rollout=ROLLOUT,
)


@pytest.mark.parametrize(
    "wish", [WISH, Wish(), replace(WISH, rollout=None), replace(WISH, replicas=None)]
)
def test_there_and_back(wish: Wish) -> None:
    document = json.loads(json.dumps(to_document(wish)))
    assert from_document(document, wish.configured) == wish


def test_settings_that_name_another_image_win() -> None:
    found = from_document(to_document(WISH), "web:9")
    assert found == replace(WISH, release=Release(2, "web:9"), configured="web:9")


def test_the_next_release_is_one_that_nobody_was_started_as() -> None:
    assert Wish().next_release("") == Release(2, "")
    assert WISH.next_release("web:3") == Release(5, "web:3")
    assert WISH.next_release("") == Release(5, "web:1")


@pytest.mark.parametrize(
    "broken",
    [
        None, [], {}, 3, "x",
        {"replicas": 0}, {"replicas": "3"}, {"replicas": True}, {"release": None},
        {"release": {"revision": 0, "image": ""}}, {"release": {"revision": 1, "image": 3}},
        {"drained": ["b-1"]}, {"drained": {"b-1": "yesterday"}},
        {"drained": {"b-1": "2026-11-22T10:00:00"}}, {"rollout": {}},
        {"rollout": to_document(WISH)["rollout"] | {"state": "odd"}},
    ],
)  # fmt: skip
def test_what_was_not_written_by_it(broken: Any) -> None:
    document = to_document(WISH) | broken if isinstance(broken, dict) and broken else broken
    with pytest.raises(ValueError, match="not a saved wish"):
        from_document(document, "web:1")
