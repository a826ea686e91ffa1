from __future__ import annotations

from lbctl.core.trickle import Trickle


def test_so_many_at_once_and_then_so_many_a_second() -> None:
    trickle = Trickle(per_s=2.0, burst=3)
    assert [trickle.may(100.0) for _ in range(5)] == [True, True, True, False, False]
    assert [trickle.may(100.5) for _ in range(2)] == [True, False]
    assert trickle.said() == 3
    assert trickle.said() == 0
    assert [trickle.may(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    trickle = Trickle(per_s=1.0, burst=1)
    assert trickle.may(100.0)
    assert not trickle.may(50.0)
    assert not trickle.may(50.9)
    assert trickle.may(51.1)
