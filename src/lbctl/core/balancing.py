"""Who gets the next request. Policies are pure: a tuple of candidates in, one of them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

T = TypeVar("T")


class RoundRobin(Generic[T]):
    """Each candidate in turn.

    `start` sets where the turn begins, so that several workers do not send their first
    requests to the same backend. A change of the candidates keeps the turn going.
    """

    __slots__ = ("_candidates", "_turn")

    def __init__(self, start: int = 0) -> None:
        self._candidates: tuple[T, ...] = ()
        self._turn = start

    def update(self, candidates: Sequence[T]) -> None:
        self._candidates = tuple(candidates)

    def pick(self, avoid: Container[T] = ()) -> T | None:
        """The next candidate that is not in `avoid`; None if there is none."""
        candidates = self._candidates
        count = len(candidates)
        for _ in range(count):
            turn = self._turn = (self._turn + 1) % count
            chosen = candidates[turn]
            if not avoid or chosen not in avoid:
                return chosen
        return None
