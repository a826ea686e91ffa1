"""Who hangs, and who only seems to."""

from __future__ import annotations

import pytest

from lbctl.core.pulse import Pulse, Watch


def watch(judged_s: float = 99.5) -> Watch:
    made = Watch(timeout_s=3.0, start_s=10.0, interval_s=0.5)
    made.hung(judged_s, {})
    return made


@pytest.mark.parametrize(
    ("pulse", "hangs"),
    [
        (Pulse(started_s=10.0, beat_s=99.9), False),
        (Pulse(started_s=10.0, beat_s=97.0), False),
        (Pulse(started_s=10.0, beat_s=96.9), True),
        (Pulse(started_s=91.0, beat_s=0.0), False),  # it still starts
        (Pulse(started_s=89.9, beat_s=0.0), True),
        (Pulse(started_s=99.0, beat_s=50.0), False),  # the beat is its predecessor's
    ],
)
def test_silence(pulse: Pulse, hangs: bool) -> None:
    assert watch().hung(100.0, {"one": pulse}) == (["one"] if hangs else [])


def test_each_is_judged_by_itself() -> None:
    pulses = {"well": Pulse(1.0, 99.9), "ill": Pulse(1.0, 90.0)}
    assert watch().hung(100.0, pulses) == ["ill"]


def test_where_the_judge_stood_still_everybody_gets_time_anew() -> None:
    judge = watch(judged_s=50.0)
    silent = {"one": Pulse(1.0, 50.0)}
    assert judge.hung(100.0, silent) == []
    now_s = 100.0
    while now_s <= 103.0:
        assert judge.hung(now_s, silent) == []
        now_s += 0.5
    assert judge.hung(now_s, silent) == ["one"]
