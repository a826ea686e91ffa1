"""How long to wait before the next try."""

from __future__ import annotations


class Backoff:
    """Doubles from `first_s` to `longest_s`; each wait is shortened by up to half, at random,
    so that many who failed together do not come back together.
    """

    __slots__ = ("_first_s", "_longest_s", "_next_s")

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def next_s(self, chance: float) -> float:
        """Seconds to wait now. `chance` is uniform in [0, 1)."""
        wait_s = min(self._next_s, self._longest_s)
        self._next_s = min(self._next_s * 2, self._longest_s)
        return wait_s * (1 - chance / 2)

    def reset(self) -> None:
        """It worked: the next failure starts from the beginning."""
        self._next_s = self._first_s
