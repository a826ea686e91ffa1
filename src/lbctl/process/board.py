"""A few numbers that processes of one lb share, in anonymous shared memory.

Each process writes its own row: open connections, when its event loop last came by, and whether
it has begun its work. The rows are aligned 64-bit integers with one writer each, so nobody needs
a lock.
"""

from __future__ import annotations

import mmap
import time

_FREE = -1
_FRESH_NS = 1_000_000_000
_CONNECTIONS, _BEAT_NS, _READY, _COLUMNS = 0, 1, 2, 3


class Board:
    """Made by the supervisor before it forks; `seats` is the number of processes at a time."""

    def __init__(self, seats: int) -> None:
        self._rows = memoryview(mmap.mmap(-1, seats * _COLUMNS * 8)).cast("q")
        self._seats = seats
        for seat in range(seats):
            self.vacate(seat)

    def vacate(self, seat: int) -> None:
        """The process of this seat has ended."""
        self._rows[seat * _COLUMNS + _CONNECTIONS] = _FREE
        self._rows[seat * _COLUMNS + _BEAT_NS] = 0
        self._rows[seat * _COLUMNS + _READY] = 0

    def write(self, seat: int, connections: int) -> None:
        """Called by the process itself, from its event loop: this is its heartbeat too."""
        self._rows[seat * _COLUMNS + _CONNECTIONS] = connections
        self._rows[seat * _COLUMNS + _BEAT_NS] = time.monotonic_ns()

    def tell_ready(self, seat: int) -> None:
        """Called by the process itself, as soon as it does what it is for."""
        self._rows[seat * _COLUMNS + _READY] = 1

    def is_ready(self, seat: int) -> bool:
        return bool(self._rows[seat * _COLUMNS + _READY])

    def beat_s(self, seat: int) -> float:
        """When its event loop last came by, in monotonic seconds; 0.0 if it never did."""
        return self._rows[seat * _COLUMNS + _BEAT_NS] / 1e9

    def others(self, seat: int) -> list[int]:
        """Connections of the other workers, leaving out those that ended or hang."""
        rows, oldest_ns = self._rows, time.monotonic_ns() - _FRESH_NS
        return [
            rows[other * _COLUMNS + _CONNECTIONS]
            for other in range(self._seats)
            if other != seat
            and rows[other * _COLUMNS + _CONNECTIONS] != _FREE
            and rows[other * _COLUMNS + _BEAT_NS] > oldest_ns
        ]
