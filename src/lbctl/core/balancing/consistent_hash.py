"""Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, SODA 2018;
arXiv 1608.01350, 2016).

Each candidate has POINTS points on a circle of 64-bit numbers, each key one. A key goes to the
first candidate on its way round that has room: fewer requests in flight than

    ceil(bound * (all in flight + 1) * weight / sum of weights)

Who comes or goes thus moves its own keys only, and a key that everybody asks for spills over to
the same next candidates instead of drowning one.

A circle, because a pick is one bisection and a membership change costs only the points of who
came or went. (Rendezvous hashing would look at every candidate for every request; Maglev's table
would be made anew at every change.) Of a lighter candidate's points only the first ones count,
in proportion to the heaviest: a ramp lets it grow into its keys point by point, moves none of
the others' and needs no new circle. The grain is 1/POINTS of the heaviest weight.

The hash is BLAKE2b: the same on every worker and at every start (Python's own is salted), and
even for any keys. CRC-32 takes 0.4 us less and was as even for addresses and counters, but it is
linear, and promises nothing for keys of another pattern.
"""

from __future__ import annotations

from bisect import bisect
from hashlib import blake2b
from typing import TYPE_CHECKING, Generic

from lbctl.core.balancing.policy import C
from lbctl.core.balancing.round_robin import WeightedRoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

POINTS = 128
_POINT_BYTES = 8


class ConsistentHash(Generic[C]):
    """The same key to the same candidate, on every worker, as long as that one has room.

    Requests without a key go round robin.
    """

    __slots__ = ("_bound", "_circle", "_in_flight", "_keyless", "_owners", "_places")

    def __init__(
        self, in_flight: Callable[[], int], *, bound: float = 1.25, start: int = 0
    ) -> None:
        """`in_flight()`: the sum over all candidates at this moment, kept by their owner, or
        every pick would have to look at each. `bound`, above 1: load on one, at most, as a
        multiple of its fair share; the nearer to 1, the more keys stray. `start` as in
        RoundRobin.
        """
        self._in_flight = in_flight
        self._bound = bound
        self._keyless: WeightedRoundRobin[C] = WeightedRoundRobin(start)
        self._places: dict[str, _Place[C]] = {}
        self._owners: dict[int, tuple[_Place[C], int]] = {}  # of a point; with its number there
        self._circle: list[int] = []  # all points, ascending

    def update(self, candidates: Sequence[C]) -> None:
        self._keyless.update(candidates)
        names = {one.name for one in candidates}
        gone = set[int]()
        for name in self._places.keys() - names:
            gone.update(self._places.pop(name).points)
        if gone:
            self._circle = [point for point in self._circle if point not in gone]
            for point in gone:
                self._owners.pop(point, None)  # two may have met in one, once in 10^10
        for one in candidates:
            known = self._places.get(one.name)
            if known is not None:
                known.candidate = one
                continue
            place = self._places[one.name] = _Place(one)
            for number, point in enumerate(place.points):
                self._owners[point] = (place, number)
            self._circle += place.points
        self._circle.sort()  # cheap: it is sorted but for the newcomers' points
        self._weigh()

    def reweigh(self) -> None:
        self._keyless.reweigh()
        self._weigh()

    def _weigh(self) -> None:
        weights = [place.candidate.weight for place in self._places.values()]
        heaviest, total = max(weights, default=1.0), sum(weights)
        for place in self._places.values():
            weight = place.candidate.weight
            place.counting = max(1, round(POINTS * weight / heaviest))
            place.share = self._bound * weight / total

    def pick(self, avoid: Container[C] = (), key: bytes = b"") -> C | None:
        if not key:
            return self._keyless.pick(avoid)
        circle, owners = self._circle, self._owners
        requests = self._in_flight() + 1
        begin = bisect(circle, int.from_bytes(blake2b(key).digest()[:_POINT_BYTES], "big"))
        full: C | None = None  # the first on the way, if nobody has room
        for index in range(begin - len(circle), begin):  # once round: the negative ones first
            place, number = owners[circle[index]]
            candidate = place.candidate
            if number >= place.counting or (avoid and candidate in avoid):
                continue
            # A whole number is below x exactly if it is below ceil(x).
            if candidate.in_flight < place.share * requests:
                return candidate
            if full is None:
                full = candidate
        return full


class _Place(Generic[C]):
    """One candidate on the circle: the first `counting` of its points count, and `share` of the
    requests is the most it takes.
    """

    __slots__ = ("candidate", "counting", "points", "share")

    def __init__(self, candidate: C) -> None:
        self.candidate = candidate
        self.points = _points(candidate.name)
        self.counting = POINTS
        self.share = 1.0


def _points(name: str) -> list[int]:
    """Where a candidate stands: POINTS numbers, in an order of their own."""
    seed = name.encode()
    digests = b"".join(
        blake2b(b"%d/%b" % (number, seed)).digest()
        for number in range(POINTS * _POINT_BYTES // blake2b.MAX_DIGEST_SIZE)
    )
    return [
        int.from_bytes(digests[at : at + _POINT_BYTES], "big")
        for at in range(0, len(digests), _POINT_BYTES)
    ]
