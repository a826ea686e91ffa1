from __future__ import annotations

import pytest
from benchmarks.compare.entries import entries
from benchmarks.compare.figures import Spread, cpu_us
from benchmarks.compare.scenarios import SCENARIOS
from benchmarks.compare.targets import TARGETS, Target, Verdict, verdicts

from tests.unit.benchmarks.compare.samples import results


@pytest.mark.parametrize(
    ("ratio", "at_most", "word"),
    [
        (1.0, True, "met"),
        (1.001, True, "missed"),
        (1.0, False, "met"),
        (0.999, False, "missed"),
        (None, True, "not measured"),
    ],
)
def test_the_bound_itself_is_met(ratio: float | None, at_most: bool, word: str) -> None:
    target = Target("x", "small", "lbctl", "haproxy", cpu_us, 1.0, at_most)
    spread = None if ratio is None else Spread(ratio, ratio, ratio)
    assert Verdict(target, spread).word == word


def test_every_target_is_of_things_that_are_measured() -> None:
    names = {entry.name for entry in entries("python", container=False)}
    assert {target.peer for target in TARGETS} | {target.other for target in TARGETS} <= names
    assert {target.scenario for target in TARGETS} <= {one.name for one in SCENARIOS}


def test_the_median_of_the_rounds_decides() -> None:
    words = {verdict.target.text: verdict.word for verdict in verdicts(results())}
    assert words["CPU a request, logs off, to HAProxy"] == "met"  # 0.8 and 1.2
    assert words["CPU a request, to Caddy"] == "met"
    assert words["CPU a request, to Envoy"] == "not measured"
