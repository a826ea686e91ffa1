"""Round robin: each in turn; by weight, if weights differ.

While all weights are alike the turns are a queue: whoever is served goes to its end. It keeps
everyone's order whoever comes or goes, and costs the same for 3 candidates as for 500.

With different weights the turns follow worst-case-fair queueing (WF2Q+: Bennett and Zhang,
"Hierarchical packet fair queueing algorithms", SIGCOMM 1996), with a request for a packet. A
candidate of weight w has a turn every 1/w of virtual time, while each pick moves that time by
1/(sum of weights). Of those whose turn may have begun, the one whose turn must end first is
served. So after any number of picks each has had its exact share give or take one, and with
weights 5, 1, 1 nobody is served more than three times in a row: as even as can be. Smooth
weighted round robin as in nginx reaches up to four, and looks at every candidate for it; two
heaps make it O(log n) here.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Generic

from lbctl.core.balancing.policy import C, T, requeued

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

_ROUNDING = 1e-9
"""Of a turn: what sums of floats may lack by."""


class RoundRobin(Generic[T]):
    """Everyone in turn, whatever they weigh.

    `start` is where the first turn falls, so that several workers do not all begin with the
    same backend. Newcomers queue behind everyone else.
    """

    __slots__ = ("_queue", "_start")

    def __init__(self, start: int = 0, queue: Iterable[T] = ()) -> None:
        self._queue = deque(queue)
        self._start = start

    @property
    def queue(self) -> Sequence[T]:
        """All of them, whose turn is next first."""
        return self._queue

    def update(self, candidates: Sequence[T]) -> None:
        begins = not self._queue
        self._queue = deque(requeued(self._queue, candidates))
        if begins:
            self._queue.rotate(-self._start)

    def reweigh(self) -> None:
        """Weights make no difference here."""

    def pick(self, avoid: Container[T] = (), key: bytes = b"") -> T | None:  # noqa: ARG002
        """The next one that is not in `avoid`; those passed over keep their turn."""
        queue = self._queue
        if not avoid:
            if not queue:
                return None
            chosen = queue[0]
            queue.rotate(-1)
            return chosen
        for place, candidate in enumerate(queue):
            if candidate not in avoid:
                del queue[place]
                queue.append(candidate)
                return candidate
        return None


class WeightedRoundRobin(Generic[C]):
    """Everyone in turn, the heavier ones more often. `start` as in RoundRobin."""

    __slots__ = ("_candidates", "_start", "_turns")

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self._candidates: Sequence[C] = ()
        self._turns: RoundRobin[C] | _Schedule[C] = RoundRobin(start)

    def update(self, candidates: Sequence[C]) -> None:
        self._candidates = tuple(candidates)
        turns = self._turns
        begins = not turns.queue
        alike = len({one.weight for one in candidates}) <= 1
        if alike and isinstance(turns, _Schedule):
            turns = self._turns = RoundRobin(self._start, turns.queue)
        turns.update(candidates)
        if not alike and isinstance(turns, RoundRobin):
            turns = self._turns = _Schedule(turns.queue)
            for _ in range(self._start if begins else 0):
                turns.pick()

    def reweigh(self) -> None:
        self.update(self._candidates)

    def pick(self, avoid: Container[C] = (), key: bytes = b"") -> C | None:  # noqa: ARG002
        return self._turns.pick(avoid)


class _Turn(Generic[C]):
    """The next turn of one candidate: it may begin at virtual time `start`, and is due `period`
    later, when the one after it may begin.
    """

    __slots__ = ("candidate", "period", "start")

    def __init__(self, candidate: C, ahead: float) -> None:
        """`ahead`: how much of a turn it has had beyond its share."""
        self.candidate = candidate
        self.period = 1 / candidate.weight
        self.start = ahead * self.period

    def ahead(self, now: float) -> float:
        return (self.start - now) / self.period


class _Schedule(Generic[C]):
    """Turns of different lengths. Turns that may begin wait in one heap, by when they are due;
    the others in a second one, by when they may begin. The number in an entry settles ties.
    """

    __slots__ = ("_due", "_later", "_now", "_step", "_turns")

    def __init__(self, queue: Sequence[C]) -> None:
        self._turns: list[_Turn[C]] = []
        self._now = 0.0  # virtual time
        self.update(queue)

    @property
    def queue(self) -> Sequence[C]:
        """All of them, whose turn may begin first, first."""
        return [turn.candidate for turn in sorted(self._turns, key=lambda turn: turn.start)]

    def update(self, candidates: Sequence[C]) -> None:
        """Whoever stays keeps what it is ahead of its share or behind it, in turns."""
        ahead = {turn.candidate: turn.ahead(self._now) for turn in self._turns}
        self._turns = [_Turn(one, ahead.get(one, 0.0)) for one in candidates]
        self._now = 0.0
        self._step = 1 / sum(one.weight for one in candidates)
        self._due: list[tuple[float, int, _Turn[C]]] = []
        self._later = [(turn.start, number, turn) for number, turn in enumerate(self._turns)]
        heapify(self._later)

    def pick(self, avoid: Container[C] = ()) -> C | None:
        due, later = self._due, self._later
        now = self._now
        passed_over = []
        served: _Turn[C] | None = None
        while served is None and (due or later):
            if not due and later[0][0] > now:
                now = later[0][0]
            horizon = now + _ROUNDING
            while later and later[0][0] <= horizon:
                start, number, turn = heappop(later)
                heappush(due, (start + turn.period, number, turn))
            entry = heappop(due)
            end, number, turn = entry
            if not avoid or turn.candidate not in avoid:
                served = turn
            else:
                passed_over.append(entry)
        for entry in passed_over:
            heappush(due, entry)
        if served is None:
            return None
        # What it missed while it was avoided is made up for one turn, not with a burst.
        served.start = max(end, now - served.period)
        heappush(later, (served.start, number, served))
        self._now = now + self._step
        return served.candidate
