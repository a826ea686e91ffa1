"""Least connections: whoever has the fewest requests in flight for its weight."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic

from lbctl.core.balancing.policy import C, requeued

if TYPE_CHECKING:
    from collections.abc import Container, Sequence


class LeastConnections(Generic[C]):
    """The smallest (in_flight + 1) / weight: the load that one would have with this request.

    Among equals, whoever was served longest ago. So without load, candidates of equal weight
    take turns, while a lighter one gets nothing before the heavier ones are busy.

    A pick looks at each candidate until it meets an idle one of the greatest weight, which
    nobody can beat: few looks under light load, all of them under heavy load.
    """

    __slots__ = ("_least_load", "_queue", "_start")

    def __init__(self, start: int = 0) -> None:
        """`start`: whose turn is first among equals, as in RoundRobin."""
        self._start = start
        self._queue: deque[tuple[C, float]] = deque()  # with 1 / weight; longest unserved first
        self._least_load = 0.0

    def update(self, candidates: Sequence[C]) -> None:
        begins = not self._queue
        self._weigh(requeued((one for one, _ in self._queue), candidates))
        if begins:
            self._queue.rotate(-self._start)

    def reweigh(self) -> None:
        self._weigh([one for one, _ in self._queue])

    def _weigh(self, queue: Sequence[C]) -> None:
        self._queue = deque((one, 1 / one.weight) for one in queue)
        self._least_load = min((load for _, load in self._queue), default=0.0)

    def pick(self, avoid: Container[C] = (), key: bytes = b"") -> C | None:  # noqa: ARG002
        queue = self._queue
        best = -1
        lowest = float("inf")
        for place, (candidate, load_each) in enumerate(queue):
            load = (candidate.in_flight + 1) * load_each
            if load < lowest and (not avoid or candidate not in avoid):
                best = place
                lowest = load
                if load <= self._least_load:
                    break
        if best < 0:
            return None
        chosen = queue[best]
        del queue[best]
        queue.append(chosen)
        return chosen[0]
