"""Who a request comes from: what this hop says about it, and whose word it takes for it.

A peer in one of the trusted networks is a proxy of our own: what it says about its client is
kept and added to. Everybody else's X-Forwarded-*, Forwarded (RFC 7239) and X-Request-Id, under
any spelling, are dropped and said afresh.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.core.http1 import Fields, Request

Network = IPv4Network | IPv6Network

_ID = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch
_MAPPED = IPv6Network("::ffff:0:0/96")
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}").fullmatch
_CHAINS = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded")


def networks(text: str) -> tuple[Network, ...]:
    """Networks and addresses, separated by commas. Raises ValueError for what is neither.

    IPv4 that is mapped into IPv6 becomes IPv4: addresses are compared as such.
    """
    return tuple(_unmapped(ip_network(part.strip())) for part in text.split(",") if part.strip())


def _unmapped(network: Network) -> Network:
    """::ffff:a.b.c.d/96+n is a.b.c.d/n (RFC 4291, section 2.5.5.2)."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network


class Hop:
    """This worker, as a stop on a request's way: what all of its clients' origins share.

    `name` is its pseudonym in Via, the same for all workers of an lb and of nobody else;
    `id_prefix` makes the ids of this worker's requests unique.
    """

    __slots__ = ("_trusted", "_via", "id_prefix", "name")

    def __init__(self, name: str, id_prefix: str, trusted: tuple[Network, ...] = ()) -> None:
        self.name = name.encode("ascii")
        self.id_prefix = id_prefix
        self._trusted = trusted
        self._via = re.compile(rb"[^,]* " + re.escape(self.name) + rb"[\t ]*(?:[,(]|$)").search

    def trusts(self, ip: str) -> bool:
        """Whether `ip` is in a trusted network; what is no address is not."""
        if not self._trusted:
            return False
        try:
            address = ip_address(ip)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._trusted)

    def is_loop(self, request: Request) -> bool:
        """Whether a request has been here before (RFC 9110, section 7.6.3)."""
        if request.plain:
            return False
        return any(name == b"via" and self._via(value) for name, value in request.fields)


class Origin:
    """A client's connection as its requests' origin; made once a connection.

    `lines` are those of this hop for an untrusted peer, up to the number in the request id;
    `id_prefix` comes before that number. `tls` is the version of TLS that is spoken, as the access
    log says it.
    """

    __slots__ = ("_hop", "_node", "_scheme", "id_prefix", "ip", "lines", "tls", "trusted")

    def __init__(self, hop: Hop, ip: str, scheme: str, tls: str = "") -> None:
        self._hop = hop
        self.tls = f'"{tls}"' if tls else "null"
        self._scheme = scheme.encode("ascii")
        self._node = b'"[%b]"' % ip.encode("ascii") if ":" in ip else ip.encode("ascii")
        self.ip = ip
        self.trusted = hop.trusts(ip)
        self.id_prefix = hop.id_prefix
        self.lines = self._lines(ip.encode("ascii"), self._scheme, b"") + (
            b"X-Request-Id: %b" % hop.id_prefix.encode("ascii")
        )

    def _lines(self, chain: bytes, scheme: bytes, before: bytes) -> bytes:
        return (
            b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n"
            b"Forwarded: %bfor=%b;proto=%b\r\nVia: 1.1 %b\r\n"
            % (chain, scheme, before, self._node, self._scheme, self._hop.name)
        )

    def replaces(self, name: bytes) -> bool:
        """Whether a field speaks about the origin and is not passed on as it stands."""
        if self.trusted and name not in _CHAINS and name != b"x-request-id" and b"_" not in name:
            return False
        plain = name.replace(b"_", b"-")
        return plain.startswith(b"x-forwarded") or plain == b"forwarded" or plain == b"x-request-id"

    def lines_after(self, request: Request, number: int) -> bytes:
        """The lines of this hop behind a trusted peer, and the empty line."""
        fields = request.fields
        chain = _joined(fields, b"x-forwarded-for")
        ip = self.ip.encode("ascii")
        before = _joined(fields, b"forwarded")
        return b"X-Forwarded-Host: %b\r\n%bX-Request-Id: %b\r\n\r\n" % (
            _joined(fields, b"x-forwarded-host") or request.host,
            self._lines(
                chain + b", " + ip if chain else ip,
                _joined(fields, b"x-forwarded-proto") or self._scheme,
                before + b", " if before else b"",
            ),
            self.request_id(request, number).encode("ascii"),
        )

    def request_id(self, request: Request | None, number: int) -> str:
        """The id of a request: a trusted peer's own, else one that nobody else has."""
        if self.trusted and request is not None:
            given = _joined(request.fields, b"x-request-id")
            if _ID(given):
                return given.decode("ascii")
        return f"{self.id_prefix}{number:x}"

    def client(self, request: Request | None) -> str:
        """The address of who asked: the last in the chain that is no trusted proxy's."""
        if not self.trusted or request is None:
            return self.ip
        said = _joined(request.fields, b"x-forwarded-for").decode("latin-1")
        client = self.ip
        for part in reversed(said.split(",")):
            if "%" in part:  # a scope may be any text, and is nobody's but the sender's
                break
            try:
                client = str(ip_address(_without_port(part.strip())))
            except ValueError:
                break
            if not self._hop.trusts(client):
                break
        return client


def _without_port(node: str) -> str:
    """Some proxies say 192.0.2.1:4711 or [2001:db8::1]:4711."""
    found = _WITH_PORT(node)
    return (found[1] or found[2] or "") if found else node


def _joined(fields: Fields, name: bytes) -> bytes:
    """All values of a field as one list (RFC 9110, section 5.2)."""
    return b", ".join(value for one, value in fields if one == name and value)
