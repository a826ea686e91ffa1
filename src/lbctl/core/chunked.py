"""Bodies in chunks, read as strictly as the heads of core/http1.py (RFC 9112, section 7.1)."""

from __future__ import annotations

import re
from enum import Enum

from lbctl.core.http1 import TOKEN
from lbctl.errors import ProtocolError

_QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_EXTENSION = rb"[\t ]*+;[\t ]*+%b++(?:[\t ]*+=[\t ]*+(?:%b++|%b))?+" % (TOKEN, TOKEN, _QUOTED)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:%b)*+\r\n" % _EXTENSION).fullmatch
_FIELD_LINE = re.compile(TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n").fullmatch

# What decides about framing, routing, trust or how the content is read must be known before
# the content (RFC 9110, section 6.5.1); some servers merge trailers into the head's fields.
_NEVER_IN_TRAILERS = re.compile(
    rb"(?i:transfer[-_]encoding|content[-_](?:length|encoding|type|range)|host|connection|te"
    rb"|trailer|upgrade|keep-alive|expect|range|max-forwards|authorization|cookie|set-cookie"
    rb"|proxy[^:]*|forwarded|x[-_]forwarded[^:]*)[\t ]*:"
).match


class _Chunk(Enum):
    SIZE = "size"
    DATA = "data"
    DATA_END = "data end"
    TRAILER = "trailer"


class ChunkedBody:
    """Checks a chunked body as it streams by (RFC 9112, section 7.1).

    Feed it bytes as they come; it returns those that may be passed on, which are whole
    lines and data only: half a chunk line waits until the rest has been seen. After `done`,
    `rest` holds what came behind the message. With `decode`, only the data is returned,
    without sizes and trailers, for peers that know no chunks.
    """

    __slots__ = (
        "_decode",
        "_held",
        "_left",
        "_limit",
        "_state",
        "_status",
        "_trailers",
        "done",
        "rest",
    )

    def __init__(self, status: int, limit_bytes: int, *, decode: bool = False) -> None:
        """`status` is that of the errors (400 or 502); `limit_bytes` bounds a chunk line and
        the trailers together.
        """
        self._status = status
        self._limit = limit_bytes
        self._decode = decode
        self._state = _Chunk.SIZE
        self._left = 0
        self._held = b""
        self._trailers = 0
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Raises ProtocolError as soon as a byte cannot belong there."""
        if self._state is _Chunk.DATA and len(data) <= self._left:
            self._left -= len(data)  # the most common case: the same object goes through
            if not self._left:
                self._state = _Chunk.DATA_END
            return data
        if self._held:
            data = self._held + data
            self._held = b""
        decoded: list[bytes] = []
        position, size = 0, len(data)
        while position < size:
            if self._state is _Chunk.DATA:
                end = min(position + self._left, size)
                if self._decode:
                    decoded.append(data[position:end])
                self._left -= end - position
                position = end
                if not self._left:
                    self._state = _Chunk.DATA_END
                continue
            end = data.find(b"\n", position) + 1
            if not end:
                self._hold(data[position:])
                break
            self._line(data[position:end])
            position = end
            if self.done:
                self.rest = data[position:]
                break
        if self._decode:
            return b"".join(decoded)
        return data if position == size else data[:position]

    def _hold(self, part: bytes) -> None:
        """Keep an unfinished line, if it can still become one."""
        possible = {
            _Chunk.SIZE: part[:1] in b"0123456789abcdefABCDEF",
            _Chunk.DATA_END: part == b"\r",
        }
        if len(part) + self._trailers > self._limit or not possible.get(self._state, True):
            raise ProtocolError(self._status, "chunk")
        self._held = part

    def _line(self, line: bytes) -> None:
        if self._state is _Chunk.SIZE:
            match = _CHUNK_LINE(line)
            if match is None or len(line) > self._limit:
                raise ProtocolError(self._status, "chunk")
            self._left = int(match.group(1), 16)
            self._state = _Chunk.DATA if self._left else _Chunk.TRAILER
        elif self._state is _Chunk.DATA_END:
            if line != b"\r\n":
                raise ProtocolError(self._status, "chunk")
            self._state = _Chunk.SIZE
        else:
            self._trailers += len(line)
            if self._trailers > self._limit:
                raise ProtocolError(self._status, "trailer")
            if line == b"\r\n":
                self.done = True
            elif _NEVER_IN_TRAILERS(line) or not _FIELD_LINE(line):
                raise ProtocolError(self._status, "trailer")
