from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from lbctl.core.cputime import container_ns, spent, ticks_of

REST = "S 1 1 1 0 -1 4194560 100 0 0 0 {utime} {stime} 0 0 20 0 1 0 100"


@pytest.mark.parametrize("name", ["python", "a b", ") R 1", "((", "x) S 9 9"])
def test_the_times_are_found_behind_any_name(name: str) -> None:
    assert ticks_of(f"42 ({name}) {REST.format(utime=7, stime=5)}") == 12


@pytest.mark.parametrize("line", ["", "42", "42 (x)", "42 (x) S 1 2", "42 (x) S" + " x" * 20])
def test_what_is_no_such_line(line: str) -> None:
    with pytest.raises(ValueError, match=r"stat|literal"):
        ticks_of(line)


def test_it_is_what_this_process_has_used() -> None:
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass  # CPU time is what is wanted
    ticks = ticks_of(Path("/proc/self/stat").read_text())
    used_s = ticks / os.sysconf("SC_CLK_TCK")
    assert used_s == pytest.approx(time.process_time(), abs=0.1)


def test_a_container_s_time() -> None:
    assert container_ns({"cpu_stats": {"cpu_usage": {"total_usage": 5}}}) == 5


@pytest.mark.parametrize(
    "stats",
    [
        None, [], {}, {"cpu_stats": None}, {"cpu_stats": {"cpu_usage": {}}},
        {"cpu_stats": {"cpu_usage": {"total_usage": "5"}}},
        {"cpu_stats": {"cpu_usage": {"total_usage": True}}},
        {"cpu_stats": {"cpu_usage": {"total_usage": -1}}},
    ],
)  # fmt: skip
def test_what_the_engine_did_not_say(stats: Any) -> None:
    with pytest.raises(ValueError, match="did not say"):
        container_ns(stats)


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [
        ({"1": 1.0, "2": 2.0}, {"1": 1.5, "2": 4.0}, 2.5),
        ({"1": 1.0}, {"1": 1.0}, 0.0),
        ({"1": 1.0}, {"2": 1.5}, None),
        ({"1": 1.0}, {"1": 1.5, "2": 0.1}, None),
        ({"1": 1.0, "2": 1.0}, {"1": 1.5}, None),
        ({"1": 1.0}, {"1": 0.5}, None),
        ({}, {}, None),
    ],
)
def test_what_was_used_meanwhile(
    before: dict[str, float], after: dict[str, float], seconds: float | None
) -> None:
    assert spent(before, after) == seconds
