"""Who may ask the admin port for what.

Reading is free for peers in the networks that the composition names (loopback, and in a
container the gateway through which the published port arrives) and takes the admin token
from elsewhere. Changing always takes the token, and never comes from another site's page.
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: tuple[Network, ...] = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
)


class Access:
    """The rules, over two callables, so that a rotated token or a network that comes later
    counts from the next request on.

    `token` returns the admin token, or "" while there is none: then nothing matches it.
    """

    def __init__(
        self, token: Callable[[], str], open_networks: Callable[[], Collection[Network]]
    ) -> None:
        self._token = token
        self._open_networks = open_networks

    def may_read(self, peer: str | None, headers: Mapping[str, str]) -> bool:
        """`peer` is the other end's address; None where the transport has none."""
        return self._is_open(peer) or self.holds_token(headers)

    def holds_token(self, headers: Mapping[str, str]) -> bool:
        """Whether `Authorization: Bearer <token>` is right, in a time that tells nothing."""
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        expected = self._token()
        # compare_digest takes no str outside ASCII, and an absent token must not equal "".
        right = hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), expected.encode("utf-8")
        )
        return right and bool(expected) and scheme.lower() == "bearer"

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
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("Host", "").lower()
