"""Who is let in, and how often: the limits of client networks, on the request path.

A worker whose limits are off has no gate, and its connections none of what is here. Else they are
`limited`: what can be said of a connection is decided when it comes, where its peer is the client;
each request is counted just before a backend is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from time import monotonic_ns
from typing import TYPE_CHECKING, TypeVar, cast

from lbctl.core.limits import (
    COUNT_CELLS,
    KEY_BYTES,
    RATE_CELLS,
    Admission,
    Buckets,
    Connections,
    address_of,
    client_key,
)
from lbctl.core.origin import networks
from lbctl.proxy.downstream import Downstream

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from lbctl.config import Limits
    from lbctl.core.limits import Cells
    from lbctl.proxy.forwarder import Forwarder

Kind = TypeVar("Kind", bound=Downstream)

DENIED, TOO_MANY, LIMITED = "denied", "client_connections", "rate_limit"
_KNOWN = 4096
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the workers of an lb know together: `rates` (RATE_CELLS), `connections` (COUNT_CELLS
    for each worker) and which of these is `own`; `secret` is what clients are hashed with.
    """

    rates: Cells
    connections: Sequence[Cells]
    own: int
    secret: bytes


def ledger_of_one() -> Ledger:
    """That of a worker on its own."""
    return Ledger([0] * RATE_CELLS, [[0] * COUNT_CELLS], 0, bytes(KEY_BYTES))


class Gate:
    """The limits of client networks, as one worker applies them."""

    def __init__(self, limits: Limits, ledger: Ledger) -> None:
        self._prefixes = limits.rate_prefix_v4, limits.rate_prefix_v6
        self._secret = ledger.secret
        self._admission = Admission(networks(limits.allow_networks), networks(limits.deny_networks))
        rate = limits.rate_limit
        self._buckets = Buckets(ledger.rates, rate, limits.rate_burst) if rate else None
        self._connections = Connections(ledger.connections, ledger.own)
        self._most = limits.client_connections
        self._clients: dict[str, tuple[int, bool]] = {}

    def client(self, ip: str) -> tuple[int, bool]:
        """The key of an address's network, and whether it may come."""
        known = self._clients.get(ip)
        if known is None:
            if len(self._clients) >= _KNOWN:
                self._clients.clear()
            address = address_of(ip)
            key = client_key(address, *self._prefixes, self._secret)
            known = self._clients[ip] = key, self._admission.admits(address)
        return known

    def arrive(self, client: int) -> bool:
        """One more connection, unless there are too many; `leave` ends it."""
        if self._most:
            if self.held(client) >= self._most:
                return False
            self._connections.add(client)
        return True

    def held(self, client: int) -> int:
        """Its connections, of all workers."""
        return self._connections.of(client)

    def leave(self, client: int) -> None:
        if self._most:
            self._connections.remove(client)

    def ask(self, client: int) -> int:
        """One more request: 0, or the nanoseconds after which it would have been let in."""
        return self._buckets.take(client, monotonic_ns()) if self._buckets is not None else 0


def gate_of(limits: Limits, ledger: Ledger | None) -> Gate | None:
    """None where all of it is off."""
    wanted = (
        limits.rate_limit
        or limits.client_connections
        or limits.allow_networks.strip()
        or limits.deny_networks.strip()
    )
    return Gate(limits, ledger or ledger_of_one()) if wanted else None


def enter(forwarder: Forwarder, ip: str) -> tuple[str, int]:
    """One more connection of this peer: why it may not stay, if it may not; and the key of its
    network if it counts, which is `leave`'s to end. A trusted proxy's count for nobody.
    """
    gate = forwarder.gate
    if gate is None or forwarder.origin(ip).trusted:
        return "", 0
    client, may_come = gate.client(ip)
    if may_come and gate.arrive(client):
        return "", client
    return (TOO_MANY if may_come else DENIED), 0


def leave(forwarder: Forwarder, client: int) -> None:
    """A connection that `enter` let in is gone; 0: it did not count."""
    if client and forwarder.gate is not None:
        forwarder.gate.leave(client)


class Limited(Downstream):
    """What limits change about a client's connection, of whatever kind it is.

    `_client` is the key of its network; 0 where a trusted proxy's requests each have their own.
    """

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._client:  # it came over TLS, and its TlsConnection is counted
            return
        verdict, self._client = enter(self._forwarder, self.origin.ip)
        self._counted = bool(self._client)
        if verdict:
            self._turn_away(verdict)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._counted:
            leave(self._forwarder, self._client)

    def _dispatch(self) -> None:
        gate, client = self._forwarder.gate, self._client
        assert gate is not None  # noqa: S101 - else nobody makes one of these
        if not client:
            client, may_come = gate.client(self.origin.client(self.request))
            if not may_come:
                self._refuse(403, DENIED, keep_alive=self._keep_alive)
                return
        wait_ns = gate.ask(client)
        if wait_ns:
            seconds = ceil(wait_ns / _NS)
            self._refuse(429, LIMITED, keep_alive=self._keep_alive, retry_after_s=seconds)
        else:
            super()._dispatch()


def limited(kind: type[Kind]) -> type[Kind]:
    """The same kind of connection, with limits."""
    mixed = type(f"Limited{kind.__name__}", (Limited, kind), {"__slots__": ()})
    return cast("type[Kind]", mixed)
