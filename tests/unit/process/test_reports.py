"""What a worker may say, and what nobody believes it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.model import CODE_CLASSES, DURATION_BUCKETS_S
from lbctl.process import reports

GOOD: dict[str, Any] = {
    "revision": 3,
    "everything": True,
    "tasks": 5,
    "connections": {"downstream": 2, "upstream": 1},
    "refused": {"host": 1},
    "lost": 4,
    "backends": {
        "id-1": {
            "name": "web-1",
            "pool": 1,
            "codes": [0, 7, 0, 0, 1],
            "buckets": [8] + [0] * len(DURATION_BUCKETS_S),
            "duration_sum_s": 0.25,
            "in_flight": 2,
            "retries": {"stale": 1},
        }
    },
}

HELLO: dict[str, Any] = {"name": "a/worker-0", "pid": 7, "life": "ab12"}


def test_what_a_worker_says_is_read_as_it_is() -> None:
    assert reports.read_report(GOOD) == GOOD
    assert reports.read_hello(HELLO) == ("a/worker-0", 7, "ab12")


def test_a_worker_of_before_counts_no_lost_lines() -> None:
    older = {key: value for key, value in GOOD.items() if key != "lost"}
    assert reports.read_report(older) == GOOD | {"lost": 0}


def poisoned(path: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    *parents, last = path.split("/")
    place = document
    for key in parents:
        place = place[key]
    place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("revision", "x"), ("revision", -1), ("revision", True), ("revision", 1.0),
        ("revision", 1 << 53), ("tasks", None), ("connections", {}), ("connections", []),
        ("connections/downstream", "many"), ("refused", {"x" * 65: 1}), ("refused", {"host": -1}),
        ("refused", {str(number): 1 for number in range(65)}), ("refused", 1),
        ("lost", -1), ("lost", "4"), ("lost", None),
        ("backends", []), ("backends", {"": {}}), ("backends", {"i" * 257: {}}),
        ("backends/id-1", 1), ("backends/id-1/name", ""), ("backends/id-1/name", "n" * 257),
        ("backends/id-1/name", 1), ("backends/id-1/codes", [0] * (len(CODE_CLASSES) + 1)),
        ("backends/id-1/codes", ["x"] * len(CODE_CLASSES)), ("backends/id-1/codes", "00000"),
        ("backends/id-1/buckets", []), ("backends/id-1/duration_sum_s", float("nan")),
        ("backends/id-1/duration_sum_s", float("inf")), ("backends/id-1/duration_sum_s", -1),
        ("backends/id-1/duration_sum_s", "1"), ("backends/id-1/in_flight", "x"),
        ("backends/id-1/pool", None), ("backends/id-1/retries", {"stale": []}),
    ],
)  # fmt: skip
def test_what_no_worker_says(path: str, value: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        reports.read_report(poisoned(path, value))


@pytest.mark.parametrize(
    "hello",
    [
        None, 1, {}, HELLO | {"name": "controller"}, HELLO | {"name": "worker-0\n"},
        HELLO | {"pid": "1"}, HELLO | {"life": ""}, HELLO | {"life": "a" * 65},
        HELLO | {"life": "retired/"}, HELLO | {"name": 1},
    ],
)  # fmt: skip
def test_who_is_no_worker(hello: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        reports.read_hello(hello)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(JSON, st.sampled_from([*GOOD, "backends/id-1", "backends/id-1/codes", "refused/host"]))
def test_whatever_it_says_is_read_or_refused(value: object, path: str) -> None:
    try:
        read = reports.read_report(poisoned(path, value))
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    json.dumps(read, allow_nan=False)
    for counts in read["backends"].values():
        assert len(counts["codes"]) == len(CODE_CLASSES)
        assert all(type(count) is int and count >= 0 for count in counts["codes"])
