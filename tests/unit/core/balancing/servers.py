"""Candidates for the policies' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from lbctl.core.balancing import Policy


class Server:
    """A candidate whose load and weight a test sets."""

    def __init__(self, name: str, weight: float = 1.0, in_flight: int = 0) -> None:
        self.name = name
        self.weight = weight
        self.in_flight = in_flight

    def __repr__(self) -> str:
        return self.name


def servers(names: Iterable[str], weights: Iterable[float] | None = None) -> list[Server]:
    """One for each name; all of weight 1 unless told otherwise."""
    if weights is None:
        return [Server(name) for name in names]
    return [Server(name, weight) for name, weight in zip(names, weights, strict=True)]


def picks(policy: Policy[Server], times: int, avoid: Container[Server] = ()) -> list[str]:
    """The names of the next ones; "-" where there is none. No request stays in flight."""
    return [one.name if (one := policy.pick(avoid)) else "-" for _ in range(times)]


def longest_run(sequence: Iterable[object]) -> int:
    """How often the same one came in a row, at most."""
    longest, run, before = 0, 0, object()
    for each in sequence:
        run = run + 1 if each == before else 1
        longest, before = max(longest, run), each
    return longest


WEIGHTS = st.one_of(st.integers(1, 256).map(float), st.floats(0.05, 20.0))
