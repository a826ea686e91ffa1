"""What a client that verifies takes for an answer: RFC 9112, read without mercy.

Not core/http1.py: the lb's own reader would forgive the lb its own mistakes. No IO here; bytes
come in as they arrive, cut anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD_LIMIT_BYTES: Final = 32_768
BODY_LIMIT_BYTES: Final = 1 << 20  # what a list may have, see the backends' admin port

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [^\r\n\x00]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*?)[ \t]*")
_NAMED = 3  # addresses of a list that is wrong
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[^\r\n]*)?")


class Kind(Enum):
    """How a request failed."""

    REFUSED = "connection refused"
    UNCONNECTED = "no connection"
    RESET = "connection reset"
    CLOSED = "closed without an answer"
    SHORT = "answer cut short"
    LATE = "no answer in time"
    STATUS = "status"
    MALFORMED = "malformed answer"
    CONTENT = "wrong content"


BROKEN_OFF: Final = frozenset({Kind.RESET, Kind.CLOSED, Kind.SHORT})
"""What happens to a request that is in flight on a process that is killed."""


class AnswerError(Exception):
    """The answer is none. `detail` says more than the kind; "" where there is no more."""

    def __init__(self, kind: Kind, detail: str = "") -> None:
        super().__init__(f"{kind.value} {detail}".rstrip())
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer. `fields` have lower-case names; `closes` is True where no other request
    may be sent on its connection.
    """

    status: int
    fields: dict[bytes, bytes]
    body: bytes
    closes: bool

    @property
    def served_by(self) -> str:
        """The address of the backend; "" where the lb answered by itself."""
        return self.fields.get(b"x-served-by", b"").decode("ascii", errors="replace")


class AnswerReader:
    """Reads one answer to a request of this method. Fed again after its end, it is undefined."""

    def __init__(self, method: bytes) -> None:
        self._to_head = method == b"HEAD"
        self._buffer = bytearray()
        self._head: tuple[int, dict[bytes, bytes]] | None = None

    def feed(self, data: bytes) -> Answer | None:
        """The answer, as soon as it is whole. Raises AnswerError."""
        self._buffer += data
        while self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > HEAD_LIMIT_BYTES:
                    raise AnswerError(Kind.MALFORMED, "a head without end")
                return None
            status, fields = _head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            if status == 101:
                raise AnswerError(Kind.MALFORMED, "101, which nobody asked for")
            if status >= 200:  # else it is an interim answer: the real one follows
                self._head = status, fields
        return self._body(*self._head)

    def end(self) -> Answer:
        """The connection has ended: the answer, where that is how it ends. Raises AnswerError."""
        if self._head is None:
            raise AnswerError(Kind.SHORT if self._buffer else Kind.CLOSED)
        status, fields = self._head
        if _length(fields) is None and b"transfer-encoding" not in fields:
            return Answer(status, fields, bytes(self._buffer), closes=True)
        raise AnswerError(Kind.SHORT, f"{len(self._buffer)} bytes of the body")

    def _body(self, status: int, fields: dict[bytes, bytes]) -> Answer | None:
        if len(self._buffer) > BODY_LIMIT_BYTES:
            raise AnswerError(Kind.MALFORMED, "a body without end")
        length = _length(fields)
        if self._to_head or status in (204, 304):
            body, used = b"", 0
        elif b"transfer-encoding" in fields:
            chunks = _chunks(self._buffer)
            if chunks is None:
                return None
            body, used = chunks
        elif length is None or len(self._buffer) < length:
            return None
        else:
            body, used = bytes(self._buffer[:length]), length
        if len(self._buffer) > used:
            raise AnswerError(Kind.MALFORMED, f"{len(self._buffer) - used} bytes too many")
        return Answer(status, fields, body, closes=_closes(fields))


def _head(block: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = block.split(b"\r\n")
    status = _STATUS_LINE.fullmatch(first)
    if status is None:
        raise AnswerError(Kind.MALFORMED, "its first line is no status line")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise AnswerError(Kind.MALFORMED, "a field of its head")
        name = field[1].lower()
        if name in fields and name in (b"content-length", b"transfer-encoding"):
            raise AnswerError(Kind.MALFORMED, "framed twice")
        fields[name] = field[2]
    if b"content-length" in fields and b"transfer-encoding" in fields:
        raise AnswerError(Kind.MALFORMED, "framed in two ways")
    if fields.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        raise AnswerError(Kind.MALFORMED, "a transfer coding that nobody asked for")
    return int(status[1]), fields


def _length(fields: dict[bytes, bytes]) -> int | None:
    value = fields.get(b"content-length")
    if value is None:
        return None
    if not re.fullmatch(rb"[0-9]{1,15}", value):
        raise AnswerError(Kind.MALFORMED, "its Content-Length")
    return int(value)


def _closes(fields: dict[bytes, bytes]) -> bool:
    options = fields.get(b"connection", b"").lower().split(b",")
    return b"close" in [option.strip() for option in options]


def _chunks(data: bytearray) -> tuple[bytes, int] | None:
    """The body and the bytes it took (RFC 9112, 7.1); None while it is not whole."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = _CHUNK_SIZE.fullmatch(bytes(data[at:end]))
        if size is None:
            raise AnswerError(Kind.MALFORMED, "the size of a chunk")
        count, at = int(size[1], 16), end + 2
        if len(data) < at + count + 2:
            return None
        if data[at + count : at + count + 2] != b"\r\n":  # so a trailer is malformed too
            raise AnswerError(Kind.MALFORMED, "the end of a chunk")
        if not count:
            return b"".join(parts), at + 2
        parts.append(bytes(data[at : at + count]))
        at += count + 2


def check_list(answer: Answer, method: bytes, expected: bytes | None) -> None:
    """Raise AnswerError unless this is the answer to a request for the list.

    `expected` is the list where it is known; while it changes, None, it has to be *a* list:
    IPv4 addresses in numeric order, one a line, each line ended.
    """
    if not 200 <= answer.status < 400:
        raise AnswerError(Kind.STATUS, str(answer.status))
    if method == b"HEAD":
        length = answer.fields.get(b"content-length")
        if length is None:
            raise AnswerError(Kind.CONTENT, "HEAD without a Content-Length")
        if expected is not None and int(length) != len(expected):
            raise AnswerError(Kind.CONTENT, "HEAD tells the length of another list")
    elif expected is not None:
        if answer.body != expected:
            what = "another list than that of the backends in rotation"
            raise AnswerError(Kind.CONTENT, f"{what}{_difference(answer.body, expected)}")
    elif not is_list(answer.body):
        raise AnswerError(Kind.CONTENT, "it is no list")


def _difference(body: bytes, expected: bytes) -> str:
    """In words, where both are lists; of each kind a few."""
    if not is_list(body):
        return ""
    served, wanted = set(body.decode().split()), set(expected.decode().split())
    parts = [
        f"{word} {', '.join(sorted(addresses)[:_NAMED])}"
        for word, addresses in (("without", wanted - served), ("with", served - wanted))
        if addresses
    ]
    return f" ({', '.join(parts)})"


def is_list(body: bytes) -> bool:
    """Whether these are the bytes of some ips.txt with at least one address."""
    try:
        addresses = [IPv4Address(line) for line in body.decode("ascii").splitlines()]
    except (AddressValueError, UnicodeDecodeError):
        return False
    return bool(addresses) and body == list_of(map(str, addresses))


def list_of(ips: Iterable[str]) -> bytes:
    """The ips.txt that names exactly these."""
    ordered = sorted(map(IPv4Address, ips))
    return "".join(f"{ip}\n" for ip in ordered).encode()
