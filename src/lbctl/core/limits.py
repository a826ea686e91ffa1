"""How much one client network may ask for, and how many connections it may hold.

The memory is fixed, however many clients there are, and may be shared by processes that write
without a lock: every cell is one integer, and what two of them do in the same instant is wrong by
one request at most.

Rate. A token bucket is kept as one number, the instant at which it will be full again (GCRA, as
in ATM Forum TM 4.0, section 4.4.2). One that is full is as good as none at all, so a place falls
free by itself. A client has WAYS places that it may use; where all are taken, whoever has the
least to wait is forgotten. So a flood of new clients forgets itself and not whoever is limited,
and an error is always in a client's favour: who was forgotten may send one burst anew.

Connections. Each process counts in a column of its own, under two hashes of the client, and takes
the smaller of the two sums over all columns (a count-min sketch). So it never counts too few, and
too many only where others share both cells: with 10,000 clients connected, of one in fourteen.

Clients are told apart by `client_key`, a keyed hash: who does not know the key cannot aim.
"""

from __future__ import annotations

from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.core.origin import Network

WAYS = 8
_SETS = 8192
_SET_CELLS = 2 * WAYS
RATE_CELLS = _SETS * _SET_CELLS
"""64-bit integers: 1 MiB for 65,536 buckets."""
COUNT_CELLS = 65_536
"""32-bit integers of one process: 256 KiB."""
_HALF = COUNT_CELLS // 2
_MOST_NS = 1 << 61
"""That a bucket takes to fill: 73 years, lest a number does not fit into its cell."""
KEY_BYTES = 16
_NS = 1_000_000_000


class Cells(Protocol):
    """Integers, as a memoryview of shared memory has them."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


Address = IPv4Address | IPv6Address


def address_of(ip: str) -> Address | None:
    """An address as it is meant: IPv4 also where it comes mapped into IPv6 (RFC 4291, section
    2.5.5.2). None for what is no address.
    """
    try:
        address = ip_address(ip)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def client_key(address: Address | None, prefix_v4: int, prefix_v6: int, secret: bytes) -> int:
    """The network that an address belongs to, as a positive integer of 63 bits."""
    if address is None:
        name = b""
    else:
        prefix = prefix_v4 if address.version == 4 else prefix_v6
        number = int(address) >> (address.max_prefixlen - prefix)
        name = b"%d/%d/%d" % (address.version, prefix, number)
    digest = blake2b(name, key=secret, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 or 1


class Admission:
    """Who may come at all. `denied` wins; where `allowed` is not empty, only those in it may."""

    __slots__ = ("_allowed", "_denied")

    def __init__(self, allowed: Sequence[Network], denied: Sequence[Network]) -> None:
        self._allowed = tuple(allowed)
        self._denied = tuple(denied)

    def __bool__(self) -> bool:
        """Whether there is anything to be asked for."""
        return bool(self._allowed or self._denied)

    def admits(self, address: Address | None) -> bool:
        """What is no address is in no network."""
        if address is None:
            return not self._allowed
        if any(address in network for network in self._denied):
            return False
        return not self._allowed or any(address in network for network in self._allowed)


class Buckets:
    """Token buckets of `burst` tokens each that fill at `rate` tokens a second.

    `cells` are RATE_CELLS zeros to begin with, and may be those of buckets with another rate: a
    client then waits no longer than an empty bucket of the present kind takes to fill.
    """

    __slots__ = ("_cells", "_interval_ns", "_most_ns", "_slack_ns")

    def __init__(self, cells: Cells, rate: float, burst: int) -> None:
        self._cells = cells
        self._interval_ns = max(int(min(_NS / rate, _MOST_NS // burst)), 1)
        self._slack_ns = (burst - 1) * self._interval_ns
        self._most_ns = burst * self._interval_ns

    def take(self, client: int, now_ns: int) -> int:
        """Take a token: 0, or the nanoseconds after which there will be one again."""
        cells = self._cells
        at = (client % _SETS) * _SET_CELLS
        end = at + _SET_CELLS
        while cells[at] != client:
            at += 2
            if at == end:
                at = self._make_room(client, end - _SET_CELLS)
                break
        full_ns = cells[at + 1]
        if full_ns < now_ns:
            full_ns = now_ns
        elif full_ns > now_ns + self._slack_ns:
            if full_ns > now_ns + self._most_ns:
                cells[at + 1] = full_ns = now_ns + self._most_ns
            return full_ns - now_ns - self._slack_ns
        cells[at + 1] = full_ns + self._interval_ns
        return 0

    def _make_room(self, client: int, first: int) -> int:
        """The place of whoever has the least to wait; nobody at all, in most cases."""
        cells = self._cells
        at = min(range(first, first + _SET_CELLS, 2), key=lambda at: cells[at + 1])
        cells[at + 1] = 0  # first, so that nobody inherits it
        cells[at] = client
        return at


class Connections:
    """Connections by client. `columns` hold COUNT_CELLS zeros for each process; `own` is the
    one to write.
    """

    __slots__ = ("_columns", "_own")

    def __init__(self, columns: Sequence[Cells], own: int) -> None:
        self._columns = columns
        self._own = columns[own]

    def of(self, client: int) -> int:
        """How many all processes hold, or a little more."""
        one, other = _cells_of(client)
        return min(
            sum(column[one] for column in self._columns),
            sum(column[other] for column in self._columns),
        )

    def add(self, client: int) -> None:
        one, other = _cells_of(client)
        self._own[one] += 1
        self._own[other] += 1

    def remove(self, client: int) -> None:
        """One that was added before."""
        one, other = _cells_of(client)
        self._own[one] -= 1
        self._own[other] -= 1


def _cells_of(client: int) -> tuple[int, int]:
    return client % _HALF, _HALF + (client // _HALF) % _HALF
