"""What the workers of one lb know together of their clients, in anonymous shared memory.

Made by the supervisor before it forks. Untouched pages take no memory, so it costs nothing where
no limit is set. Requests are counted as long as the supervisor lives, whichever workers come and
go; connections by the worker that holds them.
"""

from __future__ import annotations

import mmap
import secrets

from lbctl.core.limits import COUNT_CELLS, KEY_BYTES, RATE_CELLS
from lbctl.proxy.gate import Ledger

_COUNT_BYTES = 4


class Rates:
    """Of one lb, for all workers that it ever has."""

    def __init__(self) -> None:
        self.cells = memoryview(mmap.mmap(-1, RATE_CELLS * 8)).cast("q")
        self.secret = secrets.token_bytes(KEY_BYTES)


class Ledgers:
    """One for each worker of a crew; `seats` is their number."""

    def __init__(self, rates: Rates, seats: int) -> None:
        self._rates = rates
        size = COUNT_CELLS * _COUNT_BYTES
        whole = memoryview(mmap.mmap(-1, seats * size))
        self._columns = [whole[n * size : (n + 1) * size].cast("i") for n in range(seats)]

    def of(self, seat: int) -> Ledger:
        return Ledger(self._rates.cells, self._columns, seat, self._rates.secret)

    def vacate(self, seat: int) -> None:
        """The worker of this seat has ended, and its connections with it."""
        self._columns[seat][:] = memoryview(bytes(COUNT_CELLS * _COUNT_BYTES)).cast("i")
