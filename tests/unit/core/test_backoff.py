from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.backoff import Backoff


def test_doubles_up_to_the_longest() -> None:
    backoff = Backoff(0.1, 0.5)
    assert [backoff.next_s(0.0) for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_starts_again_after_a_success() -> None:
    backoff = Backoff(0.1, 5.0)
    backoff.next_s(0.0)
    backoff.next_s(0.0)
    backoff.reset()
    assert backoff.next_s(0.0) == 0.1


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 20))
def test_chance_takes_off_half_at_most(chance: float, tries: int) -> None:
    backoff, plain = Backoff(0.1, 5.0), Backoff(0.1, 5.0)
    for _ in range(tries):
        backoff.next_s(chance)
        plain.next_s(0.0)
    longest = plain.next_s(0.0)
    assert longest / 2 <= backoff.next_s(chance) <= longest
