"""Where plain HTTP sends its clients, and what is told to those who came over TLS.

A Location is built from what the client sent, so only what can be nothing but a host gets into it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.core.http1 import Request

_LABEL = rb"[0-9A-Za-z_](?:[0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?"
_HOST = re.compile(
    rb"(%b(?:\.%b)*\.?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?" % (_LABEL, _LABEL)
).fullmatch
_HOST_LIMIT = 260  # RFC 1035 gives names 253; a port behind it
_HTTPS_PORT = 443
# What an ACME server asks for (RFC 8555, section 8.3): a token of base64url, over plain HTTP.
_CHALLENGE = re.compile(rb"/\.well-known/acme-challenge/[0-9A-Za-z_-]+").fullmatch
_HSTS = re.compile(rb"\r\n(?i:strict-transport-security)[\t ]*:[^\r]*")


def is_acme_challenge(target: bytes) -> bool:
    """Whether a request is answered over plain HTTP all the same."""
    return _CHALLENGE(target) is not None


def came_by_tls(request: Request) -> bool:
    """Whether the proxy before us says that its client came by TLS: the first of a chain is it."""
    said = next((value for name, value in request.fields if name == b"x-forwarded-proto"), b"")
    return said.split(b",", 1)[0].strip().lower() == b"https"


def secure_location(request: Request, port: int) -> bytes | None:
    """The same place under https; None where a request does not say at which host."""
    host = _HOST(request.host) if len(request.host) <= _HOST_LIMIT else None
    if host is None:
        return None
    # No URL names `OPTIONS *`; what is at the root is nearest.
    target = request.target if request.target.startswith(b"/") else b"/"
    where = b"" if port == _HTTPS_PORT else b":%d" % port
    return b"https://%b%b%b" % (host[1], where, target)


def with_hsts(head: bytes, line: bytes) -> bytes:
    """A response's head that says `line` (RFC 6797), and nothing else of that name."""
    if _HSTS.search(head):
        head = _HSTS.sub(b"", head)
    return b"%b%b\r\n" % (head[:-2], line)
