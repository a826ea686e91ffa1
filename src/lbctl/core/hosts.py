"""By which names a server is its own. A browser that was led to an address by somebody else's DNS
answer (rebinding) still says that somebody's name in Host.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9.-]{1,253}))(?::[0-9]{1,5})?")


def host_names(text: str) -> frozenset[str]:
    """ "lb.example, ops" -> {"lb.example", "ops"}. Raises ValueError, in words for the user."""
    names = [part.strip(" ").lower() for part in text.split(",")] if text else []
    for name in names:
        if len(name) > 253 or not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no host name")
    return frozenset(names)


def is_own_host(hosts: Sequence[str], names: Collection[str]) -> bool:
    """Whether a request with these Host fields asks for this server: by an address, which nobody's
    DNS can have led it to, as localhost, or by one of `names` (lower case). One without Host is
    of no browser (RFC 9112, section 3.2).
    """
    if not hosts:
        return True
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        return False
    six, name = match.groups()
    if six is not None:
        return _is_address(six)
    name = name.lower()
    return name == "localhost" or name in names or _is_address(name)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
