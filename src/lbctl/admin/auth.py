"""Who may ask the admin port for what.

Reading is free for peers in the networks that the composition names (loopback, and in a
container the gateway through which the published port arrives) and takes the admin token
from elsewhere, or where Host is a name that is not known to be this server's. Changing always
takes the token. Neither comes from another site's page, but for the link that leads here.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lbctl.core.hosts import is_own_host

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: tuple[Network, ...] = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
)


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a request is refused: the status, one word for the audit log, and a sentence."""

    status: int
    kind: str
    text: str


class Access:
    """The rules, over callables, so that a rotated token or a network that comes later counts
    from the next request on.

    `token` returns the admin token, or "" while there is none: then nothing matches it; `retiring`
    the one of before as long as that is valid too. `names` are hosts that are this server.
    """

    def __init__(
        self,
        token: Callable[[], str],
        open_networks: Callable[[], Collection[Network]],
        retiring: Callable[[], str] = str,
        names: Collection[str] = (),
    ) -> None:
        self._token = token
        self._open_networks = open_networks
        self._retiring = retiring
        self._names = names

    def objection(
        self, method: str, peer: str | None, hosts: Sequence[str], headers: Mapping[str, str]
    ) -> Objection | None:
        """Why this may not even be read; None where it may. `hosts` are all fields of that name."""
        if is_cross_site(headers) and not _is_link(method, headers):
            return Objection(403, "cross-site", "the page of another site may not ask this")
        if not is_own_host(hosts, self._names) and not self.holds_token(headers):
            return Objection(
                403, "host", "this server is not known by that name: see the setting admin_hosts"
            )
        if not self.may_read(peer, headers):
            return Objection(401, "token", "the admin token is needed to read from this address")
        return None

    def may_read(self, peer: str | None, headers: Mapping[str, str]) -> bool:
        """`peer` is the other end's address; None where the transport has none."""
        return self._is_open(peer) or self.holds_token(headers)

    def holds_token(self, headers: Mapping[str, str]) -> bool:
        """Whether `Authorization: Bearer <token>` is right, in a time that tells nothing."""
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        # compare_digest takes no str outside ASCII.
        sent = given.strip().encode("utf-8", "surrogateescape")
        right = False
        # The old one is read last: a rotation that began meanwhile has put it there by then. Both
        # are always compared.
        for expected in (self._token(), self._retiring()):
            same = hmac.compare_digest(sent, expected.encode("utf-8"))
            right |= same and bool(expected)  # an absent token must not equal ""
        return right and scheme.lower() == "bearer"

    def token_in(self, headers: Mapping[str, str]) -> str:
        """ "held", "wrong" or "none", for the audit log."""
        if self.holds_token(headers):
            return "held"
        return "wrong" if "Authorization" in headers else "none"

    def _is_open(self, peer: str | None) -> bool:
        if peer is None:
            return False
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._open_networks())


def is_cross_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser sent this on behalf of a page that the admin port did not serve.

    Origin and Sec-Fetch-Site are set by the browser, out of the page's reach (Fetch standard,
    section 3.2; Fetch Metadata, section 2.3). "same-site" is not ours either: a backend's page on
    another port of this host is that. Clients that are no browser send neither.
    """
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return True
    origin = headers.get("Origin")
    if origin is None:
        return False
    try:
        netloc = urlsplit(origin).netloc.lower()
    except ValueError:  # half an IPv6 address
        return True
    return netloc != headers.get("Host", "").lower()


def _is_link(method: str, headers: Mapping[str, str]) -> bool:
    """Whether somebody follows a link to here: the page that has it learns nothing."""
    return (
        method in ("GET", "HEAD")
        and "Origin" not in headers
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest") == "document"
    )
