"""The records of TLS, seen from outside: where one ends, the next begins (RFC 8446, section 5.1).

What is in them is OpenSSL's to say. But it works off all it is given in one call, however many
records say nothing (new keys, alerts, padding alone), and makes room for as much of a message as
its first bytes announce; both cost a client next to nothing. So what it is given is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HANDSHAKE = 0x16
RECORD_BYTES = 16_384
"""Of plaintext; a record may be some 256 bytes longer, and has a header of 5."""
ALERT = b"\x15\x03\x03\x00\x02\x02\x0a"
"""Fatal: unexpected_message (RFC 8446, section 6)."""
_HEAD_BYTES = 5
_CLIENT_HELLO = 1
_MESSAGE_HEAD_BYTES = 4
_HELLO_BYTES = 16_384
_PIECE_BYTES = _HEAD_BYTES + RECORD_BYTES + 256
_PIECE_RECORDS = 32


def begins_well(data: bytes) -> bool | None:
    """Whether a client's first record is a ClientHello of a size that a client's may have; None
    until all of that record is there.
    """
    if len(data) < _HEAD_BYTES + _MESSAGE_HEAD_BYTES:
        return None
    record_bytes = int.from_bytes(data[3:5], "big")
    message_bytes = int.from_bytes(data[6:9], "big")
    if data[0] != HANDSHAKE or data[5] != _CLIENT_HELLO or message_bytes > _HELLO_BYTES:
        return False
    if not _MESSAGE_HEAD_BYTES <= record_bytes <= RECORD_BYTES:
        return False
    return True if len(data) >= _HEAD_BYTES + record_bytes else None


class Records:
    """One direction of a connection, from the beginning of a record on."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""  # half a header
        self._left = 0  # bytes of the last record that are still to come

    def pieces(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """`data` in pieces of one full record or up to 32 small ones, each with the number of
        records whose header ends in it.
        """
        start, count, end = 0, 0, self._left
        if self._head:
            head = self._head + data[: _HEAD_BYTES - len(self._head)]
            if len(head) < _HEAD_BYTES:
                self._head = head
                yield data, 0
                return
            end = _HEAD_BYTES - len(self._head) + (head[3] << 8 | head[4])
            self._head, count = b"", 1
        size = len(data)
        while end + _HEAD_BYTES <= size:
            after = end + _HEAD_BYTES + (data[end + 3] << 8 | data[end + 4])
            if end > start and (after - start > _PIECE_BYTES or count == _PIECE_RECORDS):
                yield data[start:end], count
                start, count = end, 0
            count += 1
            end = after
        self._head = data[end:]
        self._left = max(0, end - size)
        yield data[start:] if start else data, count
