"""One cookie out of a request's Cookie fields (RFC 6265, section 4.2.1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_OCTETS = rb"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*+"
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch


def is_token(name: str) -> bool:
    """Whether it can name a cookie or a field (RFC 9110, section 5.6.2)."""
    return _NAME(name) is not None


class CookieReader:
    """Finds the value of the cookie called `name`.

    Strict about that one: its value is cookie-octets, in quotes or not, up to a semicolon or the
    end. What the others look like is not our business; since no value may hold a semicolon,
    quoted or not, garbage in one cannot make up another.
    """

    __slots__ = ("_search",)

    def __init__(self, name: str) -> None:
        """Raises ValueError if `name` is not a token."""
        if not is_token(name):
            raise ValueError(f"{name!r} cannot be the name of a cookie")
        self._search = re.compile(
            rb"(?:\A|;)[\t ]*+%b=(?:(%b)|\"(%b)\")[\t ]*+(?=;|\Z)"
            % (re.escape(name.encode("ascii")), _OCTETS, _OCTETS)
        ).search

    def find(self, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The value, without quotes, of the first well-formed one; empty if there is none.

        `fields`: a request's, (name in lower case, value). Of several cookies of one name, user
        agents send the most specific first (section 5.4).
        """
        for name, value in fields:
            if name == b"cookie":
                found = self._search(value)
                if found is not None:
                    return found[1] or found[2] or b""
        return b""
