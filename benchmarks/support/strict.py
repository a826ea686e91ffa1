"""A strict reader of HTTP/1.1 responses, for clients that are there to find fault.

Independent of lbctl's own parser on purpose: what one of them misreads, the other one sees.
Nothing is repaired and nothing is guessed (RFC 9112): whatever is not plainly one response
after the other is a NotHttpError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEAD_LIMIT_BYTES = 65_536
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")


class NotHttpError(Exception):
    """The bytes are no HTTP/1.1 response; the text says what is wrong with them."""


class ShortError(NotHttpError):
    """The connection ended in the middle of a response."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. The names in `fields` are in lower case; a body has no chunk lines left."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the server said that the connection ends with this response."""
        return self.fields.get(b"connection", b"").lower() == b"close"

    def __str__(self) -> str:
        shown = self.body if len(self.body) <= 200 else self.body[:200] + b"..."
        return f"{self.status} with {len(self.body)} bytes: {shown!r}"


def take_answer(data: bytes, *, bodiless: bool, ended: bool) -> tuple[Answer, bytes] | None:
    """The first response in `data`, and what follows it; None if it is not all there yet.

    `bodiless`: it answers a HEAD. `ended`: the connection was closed behind `data`.
    Raises NotHttpError, and ShortError if the end came too early.
    """
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        # "HTTP/1.1 200 " can be told from anything else as soon as it is there.
        if len(data) > _HEAD_LIMIT_BYTES or not b"HTTP/1.1 ".startswith(data[:9]):
            raise NotHttpError(f"no response head: {data[:80]!r}")
        _may_go_on("head", data, ended=ended)
        return None
    status, fields = _head(data[: end - 4])
    if bodiless or status < 200 or status in (204, 304):
        return Answer(status, fields, b""), data[end:]
    if b"transfer-encoding" in fields:
        chunked = _chunks(data, end)
        if chunked is None:
            _may_go_on("chunked body", data, ended=ended)
            return None
        body, end = chunked
    elif b"content-length" in fields:
        begin, end = end, end + int(fields[b"content-length"])
        if len(data) < end:
            _may_go_on("body", data, ended=ended)
            return None
        body = data[begin:end]
    elif ended:
        body, end = data[end:], len(data)
    else:
        return None
    return Answer(status, fields, body), data[end:]


def _may_go_on(part: str, data: bytes, *, ended: bool) -> None:
    if ended:
        raise ShortError(f"the connection ended within the {part}, after {len(data)} bytes")


def _head(raw: bytes) -> tuple[int, dict[bytes, bytes]]:
    line, *lines = raw.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise NotHttpError(f"status line: {line[:80]!r}")
    fields: dict[bytes, bytes] = {}
    for one in lines:
        field = _FIELD_LINE.fullmatch(one)
        if field is None:
            raise NotHttpError(f"field line: {one[:80]!r}")
        name = field[1].lower()
        if name in fields and name in (b"content-length", b"transfer-encoding", b"connection"):
            raise NotHttpError(f"{name.decode()} stands twice")
        fields[name] = field[2].rstrip(b" \t")
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if length is not None and (coding is not None or not _LENGTH.fullmatch(length)):
        raise NotHttpError(f"content-length {length[:40]!r} beside transfer-encoding {coding!r}")
    if coding is not None and coding.lower() != b"chunked":
        raise NotHttpError(f"transfer-encoding: {coding[:40]!r}")
    return int(match[1]), fields


def _chunks(data: bytes, at: int) -> tuple[bytes, int] | None:
    """The chunked body that begins at `at`, and where it ends; None if that has not come."""
    parts: list[bytes] = []
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        match = _CHUNK_LINE.fullmatch(data, at, line_end)
        if match is None:
            raise NotHttpError(f"chunk line: {data[at:line_end][:80]!r}")
        size, at = int(match[1], 16), line_end + 2
        if not size:
            return _trailers(data, b"".join(parts), at)
        parts.append(data[at : at + size])
        at += size + 2
        if len(data) < at:
            return None
        if data[at - 2 : at] != b"\r\n":
            raise NotHttpError(f"behind a chunk: {data[at - 2 : at + 20]!r}")


def _trailers(data: bytes, body: bytes, at: int) -> tuple[bytes, int] | None:
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        line, at = data[at:line_end], line_end + 2
        if not line:
            return body, at
        if not _FIELD_LINE.fullmatch(line):
            raise NotHttpError(f"trailer: {line[:80]!r}")
