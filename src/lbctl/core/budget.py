"""How many retries may be under way at once.

Without a bound, a pool that is slow or broken as a whole is asked for everything twice just when
it can do least. A share of the live requests grows and shrinks with the traffic; the floor lets
quiet times retry too (as Envoy's retry budget does).
"""

from __future__ import annotations


class RetryBudget:
    """At most `percent` of a worker's live requests are retries, but `least` at a time always
    may be.
    """

    __slots__ = ("_least", "_percent", "active")

    def __init__(self, percent: float = 20, least: int = 100) -> None:
        self._percent = percent
        self._least = least
        self.active = 0  # retries under way

    def begin(self, live: int) -> bool:
        """Whether one more may start. `live`: requests the worker has now, with those that are
        retries. After True, the owner calls end() once, when that request is over.
        """
        if self.active >= max(self._least, int(live * self._percent / 100)):
            return False
        self.active += 1
        return True

    def end(self) -> None:
        """A retry is over, however it went."""
        self.active -= 1
