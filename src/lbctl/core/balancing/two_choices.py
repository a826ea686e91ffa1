"""Two choices: draw two, take the less loaded.

With one random choice the fullest of n equal bins gets about log n / log log n; with the better
of two only log log n (Mitzenmacher, "The power of two choices in randomized load balancing",
IEEE TPDS 12(10), 2001). Unlike "the least loaded of all", it neither looks at everyone nor
sends every worker to the same idle newcomer.

Both are drawn with probability proportional to weight: with bins of different sizes and two
choices, the bound holds for such draws, but not for uniform ones, which let the many light ones
fill up together (Wieder, "Balanced allocations with heterogenous bins", SPAA 2007).
"""

from __future__ import annotations

from bisect import bisect
from itertools import accumulate
from typing import TYPE_CHECKING, Generic

from lbctl.core.balancing.policy import C

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence


class TwoChoices(Generic[C]):
    """Of two different candidates, the one with the lower (in_flight + 1) / weight.

    If neither has anything to do, or both are equal, the first one drawn: without load everyone
    gets a share by weight.
    """

    __slots__ = ("_candidates", "_chance", "_edges")

    def __init__(self, chance: Callable[[], float]) -> None:
        """`chance()` is uniform in [0, 1)."""
        self._chance = chance
        self._candidates: Sequence[C] = ()
        self._edges: list[float] = []  # sums of the weights up to and with each candidate

    def update(self, candidates: Sequence[C]) -> None:
        self._candidates = tuple(candidates)
        self.reweigh()

    def reweigh(self) -> None:
        self._edges = _edges(self._candidates)

    def pick(self, avoid: Container[C] = (), key: bytes = b"") -> C | None:  # noqa: ARG002
        chosen = self._choose(self._candidates, self._edges)
        if avoid and chosen in avoid:
            others = [one for one in self._candidates if one not in avoid]
            chosen = self._choose(others, _edges(others))
        return chosen

    def _choose(self, candidates: Sequence[C], edges: list[float]) -> C | None:
        last = len(candidates) - 1
        if last < 1:
            return candidates[0] if candidates else None
        chance = self._chance
        total = edges[last]
        place = bisect(edges, chance() * total)
        first = candidates[place]
        # The second is drawn from the others' weights alone, laid end to end. (That rounding
        # may, once in 10^15, lead to the first one again does no harm.)
        begin = edges[place - 1] if place else 0.0
        width = edges[place] - begin
        point = chance() * (total - width)
        second = candidates[bisect(edges, point if point < begin else point + width, 0, last)]
        if not (first.in_flight or second.in_flight):
            return first
        first_load = (first.in_flight + 1) * second.weight
        return first if first_load <= (second.in_flight + 1) * first.weight else second


def _edges(candidates: Sequence[C]) -> list[float]:
    return list(accumulate(one.weight for one in candidates))
