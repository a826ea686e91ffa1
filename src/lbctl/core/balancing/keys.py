"""What of a request decides where it goes, for a policy that hashes."""

from __future__ import annotations

from collections.abc import Callable

from lbctl.core.balancing.cookies import CookieReader, is_token

Fields = list[tuple[bytes, bytes]]
KeyOf = Callable[[str, Fields], bytes]
"""(the client's address, fields with names in lower case) -> key; empty if there is none."""


def by_client_ip(client_ip: str, fields: Fields) -> bytes:  # noqa: ARG001 - a KeyOf
    return client_ip.encode("ascii")


def by_header(name: str) -> KeyOf:
    """The value of a header; lines of the same name are one value (RFC 9110, section 5.3)."""
    wanted = name.lower().encode("ascii")

    def key(client_ip: str, fields: Fields) -> bytes:  # noqa: ARG001 - a KeyOf
        return b", ".join([value for name, value in fields if name == wanted])

    return key


def by_cookie(name: str) -> KeyOf:
    """The value of a cookie. Raises ValueError if `name` cannot be one's name."""
    reader = CookieReader(name)

    def key(client_ip: str, fields: Fields) -> bytes:  # noqa: ARG001 - a KeyOf
        return reader.find(fields)

    return key


def key_from(text: str) -> KeyOf:
    """`ip`, `header:NAME` or `cookie:NAME`. Raises ValueError for anything else."""
    kind, colon, name = text.partition(":")
    if text == "ip":
        return by_client_ip
    if kind == "header" and is_token(name):
        return by_header(name)
    if kind == "cookie" and colon:
        return by_cookie(name)
    raise ValueError(f"{text!r} is none of ip, header:NAME, cookie:NAME")
