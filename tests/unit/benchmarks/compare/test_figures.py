from __future__ import annotations

import dataclasses

import pytest
from benchmarks.compare.figures import Spread, Turns, cpu_us, requests_per_s, spread

from tests.unit.benchmarks.compare.samples import run


def test_a_spread_is_the_median_and_its_bounds() -> None:
    assert spread([3.0, None, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([None]) is None


def test_cpu_a_request_is_in_microseconds() -> None:
    assert cpu_us(run("a", 1, 21.5)) == pytest.approx(21.5)
    assert cpu_us(dataclasses.replace(run("a", 1, 1.0), cpu_s=None)) is None


def test_a_ratio_is_to_the_same_round_and_not_to_the_median() -> None:
    """The machine was slow in round 2: that says nothing of either proxy."""
    runs = [run("a", 1, 10.0), run("b", 1, 20.0), run("a", 2, 40.0), run("b", 2, 80.0)]
    assert Turns(runs, "small").ratio("a", "b", cpu_us) == Spread(0.5, 0.5, 0.5)


def test_a_round_that_one_of_the_two_lacks_is_in_no_ratio() -> None:
    failed = dataclasses.replace(run("b", 2, 0.0), problem="errors: 3 read")
    runs = [run("a", 1, 10.0), run("b", 1, 20.0), run("a", 2, 99.0), failed]
    turns = Turns(runs, "small")
    assert turns.ratio("a", "b", cpu_us) == Spread(0.5, 0.5, 0.5)
    assert turns.sound("b") == 1
    assert turns.problems("b") == ["round 2: errors: 3 read"]
    assert turns.spread("b", cpu_us) == Spread(20.0, 20.0, 20.0)


def test_wrong_answers_take_all_rounds_with_them() -> None:
    wrong = dataclasses.replace(run("a", 0, 0.0), problem="17 bytes that are not the 45 sent")
    turns = Turns([run("a", 1, 10.0), run("a", 2, 10.0), wrong], "small")
    assert turns.sound("a") == 0
    assert turns.spread("a", requests_per_s) is None
    assert turns.problems("a") == ["wrong answer: 17 bytes that are not the 45 sent"]


def test_other_kinds_of_load_are_not_mixed_in() -> None:
    turns = Turns([run("a", 1, 10.0), run("b", 1, 10.0, scenario="10m")], "small")
    assert "a" in turns
    assert "b" not in turns


def test_nobody_is_compared_with_what_was_not_measured() -> None:
    assert Turns([run("a", 1, 10.0)], "small").ratio("a", "b", cpu_us) is None
