"""What a health check asks, and which answer passes it. Pure; control/http.py does the asking.

Every reader raises ValueError, in words for whoever wrote the setting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lbctl.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

BODY_LIMIT_BYTES = 65_536
"""A body may be endless, and is read no further than this."""

_PATH = re.compile(r"/[!-\"$-~]{0,1023}")
_STATUS = re.compile(r"([2-5][0-9]{2})(?:-([2-5][0-9]{2}))?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_FRAMING = frozenset(
    {"connection", "content-length", "expect", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Fields that would make another message of it (RFC 9112)."""


def read_path(text: str) -> str:
    """The target of a check: "/", then visible ASCII without "#"."""
    if not _PATH.fullmatch(text):
        raise ValueError(f'{text!r} is no path: "/" and then visible ASCII without "#"')
    return text


def read_statuses(text: str) -> tuple[range, ...]:
    """ "200-299,304" -> (range(200, 300), range(304, 305))."""
    ranges = []
    for part in (part.strip(" ") for part in text.split(",")):
        match = _STATUS.fullmatch(part)
        if match is None:
            raise ValueError(f'{text!r}: statuses are written "200-299" or "200,204"')
        low = int(match[1])
        high = int(match[2] or low)
        if high < low:
            raise ValueError(f"{part!r} ends before it begins")
        ranges.append(range(low, high + 1))
    return tuple(ranges)


def read_body(text: str) -> bytes:
    """A text, on one line, that is looked for in the body."""
    if not text.isprintable():
        raise ValueError(f"{text!r} is not one line of printable text")
    body = text.encode()
    if len(body) > BODY_LIMIT_BYTES:
        raise ValueError(f"a body is read no further than {BODY_LIMIT_BYTES} bytes")
    return body


def read_headers(text: str) -> dict[str, str]:
    """ "Host: site; X-Check: 1" -> {"Host": "site", "X-Check": "1"}. No value holds a ";"."""
    headers: dict[str, str] = {}
    for part in text.split(";") if text else ():
        name, colon, value = (piece.strip(" ") for piece in part.partition(":"))
        if not (colon and _NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise ValueError(f'{part!r}: fields are written "Name: value; Other: value"')
        if name.lower() in _FRAMING:
            raise ValueError(f"{name} says how a message is framed, and cannot be set")
        if name.lower() in {other.lower() for other in headers}:
            raise ValueError(f"{name} is given twice")
        headers[name] = value
    return headers


def header_names(text: str) -> str:
    """The same fields without their values, which may be credentials: "Host; X-Check"."""
    try:
        return "; ".join(read_headers(text))
    except ValueError:
        return "?"


@dataclass(frozen=True, slots=True)
class Expectation:
    """The answer that passes a check: one of `statuses`, with `body` (empty: any) in its body.

    `said` are the statuses as the user wrote them.
    """

    said: str = "200-299"
    statuses: tuple[range, ...] = (range(200, 300),)
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def objection(self, status: int, body: bytes) -> str:
        """What is wrong with an answer, in words; empty if it passes. `body` may be cut at
        BODY_LIMIT_BYTES.
        """
        if not any(status in each for each in self.statuses):
            return f"answered {status}, not {self.said}"
        if self.body not in body:
            wanted = printable(self.body.decode(), 60)
            return f'answered {status} without "{wanted}" in its first {BODY_LIMIT_BYTES} bytes'
        return ""


def expectation(status: str, body: str, headers: str) -> Expectation:
    """The settings `probe_status`, `probe_body` and `probe_headers`, read."""
    said = ",".join(part.strip(" ") for part in status.split(","))
    return Expectation(said, read_statuses(status), read_body(body), read_headers(headers))
