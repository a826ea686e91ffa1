"""Well-formed messages, and what becomes of them: the same for the same seed and number."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_HOST = b"Host: storm.test\r\n"
_WEBSOCKET = b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n"

REQUESTS: Sequence[bytes] = (
    b"GET / HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET /ips.json?a=1&b=%20 HTTP/1.1\r\n" + _HOST + b"Accept: */*\r\nCookie: a=b; c=d\r\n\r\n",
    b"HEAD /ips.txt HTTP/1.1\r\n" + _HOST + b"User-Agent: storm\r\n\r\n",
    b"POST /ips.txt HTTP/1.1\r\n" + _HOST + b"Content-Length: 11\r\n\r\nhello=world",
    b"PUT /x HTTP/1.1\r\n" + _HOST + b"Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + _HOST + b"TE: trailers\r\nTrailer: X-Sum\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"GET http://storm.test/ips.txt HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + _HOST + b"Max-Forwards: 1\r\n\r\n",
    b"GET /chat HTTP/1.1\r\n" + _HOST + b"Connection: Upgrade\r\n" + _WEBSOCKET + b"\r\n",
    b"POST / HTTP/1.1\r\n" + _HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /healthz HTTP/1.0\r\n" + _HOST + b"Connection: keep-alive\r\n\r\n",
    b"CONNECT storm.test:443 HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n" + _HOST + b"Connection: close, X-A\r\nX-A: 1\r\n"
    b"X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Request-Id: 7\r\n"
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
    b"DELETE /a/../b HTTP/1.1\r\n" + _HOST + b"Authorization: Bearer x\r\nVia: 1.0 a\r\n\r\n",
)

RESPONSES: Sequence[bytes] = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: text/plain\r\nConnection: keep-alive\r\n"
    b"Content-Length: 11\r\n\r\nhello world",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\n\r\nold",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3
    + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 103 Early Hints\r\n\r\n" * 200,
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\x00\x01",
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nX-A: b\r\n\r\nsad\n",
)  # fmt: skip

_PIECES = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\x00", b"\x0b", b"\xff", b" ", b"\t", b":", b",",
    b"\r\n ",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding : chunked\r\n", b"Transfer_Encoding: chunked\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 5, 5\r\n",
    b"Content_Length: 7\r\n", b"Connection: close\r\n", b"Connection: content-length, host\r\n",
    b"Host: other.test\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"X: \xe9\r\n",
    b"0\r\n\r\n", b"5\r\n", b"ffffffffffffffff\r\n", b"HTTP/1.1 200 OK\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: storm.test\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned",
)  # fmt: skip
_NUMBERS = (
    b"", b"0", b"1", b"-1", b"+5", b"0x5", b"5_0", b"05", b" 5", b"5 ", b"4", b"6", b"2147483648",
    b"18446744073709551621", b"9" * 400, b"5,5", b"\xb2", b"1e3",
)  # fmt: skip
_LONGEST_BYTES = 40_000  # more than a head may have


class Ending(Enum):
    """What the sender does behind its last byte."""

    HALF_CLOSE = "half-close"
    WAIT = "wait"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Shot:
    """One message, or a few, mutated, and how it is sent."""

    seed: int
    number: int
    pieces: tuple[bytes, ...]
    pause_s: float  # between two pieces
    ending: Ending

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def __str__(self) -> str:
        shown = repr(self.data if len(self.data) <= 2_000 else self.data[:2_000] + b" ...")
        return (
            f"--seed {self.seed} --replay {self.number}: {len(self.data)} bytes in "
            f"{len(self.pieces)} pieces, {self.pause_s * 1000:.0f} ms between them, then "
            f"{self.ending.value}: {shown}"
        )


def chance_of(seed: int, number: int) -> random.Random:
    """The chance of one shot: not of those before it, so that it can be repeated alone."""
    return random.Random(f"{seed}:{number}")  # noqa: S311 - no secret


def shot(seed: int, number: int, shapes: Sequence[bytes], *, pipeline: int) -> Shot:
    """The shot of this seed and number: up to `pipeline` of the shapes, mutated."""
    chance = chance_of(seed, number)
    count = chance.randint(2, pipeline) if pipeline > 1 and chance.random() < 0.3 else 1
    data = b"".join(chance.choices(shapes, k=count))
    # Some stay as they are: what is right has to be understood between what is not.
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 6))):
        data = chance.choice(_MUTATIONS)(chance, data)
    endings, weights = (Ending.HALF_CLOSE, Ending.WAIT, Ending.RESET), (85, 6, 9)
    return Shot(
        seed,
        number,
        _split(chance, data),
        chance.choice((0.0, 0.0, 0.001, 0.02)),
        chance.choices(endings, weights)[0],
    )


def _split(chance: random.Random, data: bytes) -> tuple[bytes, ...]:
    """Whole, in a few segments, or the first of it byte by byte."""
    way = chance.random()
    if way < 0.5 or len(data) < 2:
        return (data,)
    if way < 0.95:
        cuts = sorted(chance.randrange(1, len(data)) for _ in range(chance.randint(1, 4)))
    else:
        cuts = list(range(1, min(len(data), 150)))
    edges = [0, *cuts, len(data)]
    return tuple(data[a:b] for a, b in pairwise(edges) if b > a)


def _span(chance: random.Random, data: bytes, longest: int = 40) -> tuple[int, int]:
    begin = chance.randrange(len(data) + 1)
    return begin, min(len(data), begin + chance.randint(1, longest))


def _changed_byte(chance: random.Random, data: bytes) -> bytes:
    at, _ = _span(chance, data)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def _flipped_bit(chance: random.Random, data: bytes) -> bytes:
    at, end = _span(chance, data, 1)
    return data[:at] + bytes(byte ^ 1 << chance.randrange(8) for byte in data[at:end]) + data[end:]


def _inserted_piece(chance: random.Random, data: bytes) -> bytes:
    at, _ = _span(chance, data)
    return data[:at] + chance.choice(_PIECES) + data[at:]


def _inserted_line(chance: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(chance.randrange(len(lines) + 1), chance.choice(_PIECES))
    return b"".join(lines)


def _cut_out(chance: random.Random, data: bytes) -> bytes:
    begin, end = _span(chance, data)
    return data[:begin] + data[end:]


def _truncated(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _repeated(chance: random.Random, data: bytes) -> bytes:
    begin, end = _span(chance, data)
    return data[:end] + data[begin:end] + data[end:]


def _moved_line(chance: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        line = lines.pop(chance.randrange(len(lines)))
        lines.insert(chance.randrange(len(lines) + 1), line)
    return b"".join(lines)


def _repeated_line(chance: random.Random, data: bytes) -> bytes:
    """Twice, or more often than a head may have lines."""
    lines = data.splitlines(keepends=True)
    if lines:
        at = chance.randrange(len(lines))
        lines[at:at] = [lines[at]] * chance.choice((1, 1, 2, 120))
    return b"".join(lines)


def _other_line_end(chance: random.Random, data: bytes) -> bytes:
    ends = [match.start() for match in re.finditer(rb"\r\n", data)]
    if not ends:
        return data
    at = chance.choice(ends)
    return (
        data[:at]
        + chance.choice((b"\n", b"\r", b"", b"\n\r", b"\r\r\n", b" \r\n"))
        + data[at + 2 :]
    )


def _other_number(chance: random.Random, data: bytes) -> bytes:
    numbers = list(re.finditer(rb"[0-9]+", data))
    if not numbers:
        return data
    match = chance.choice(numbers)
    return data[: match.start()] + chance.choice(_NUMBERS) + data[match.end() :]


def _other_case(chance: random.Random, data: bytes) -> bytes:
    begin, end = _span(chance, data)
    return data[:begin] + data[begin:end].swapcase() + data[end:]


def _swollen(chance: random.Random, data: bytes) -> bytes:
    at, _ = _span(chance, data)
    fill = bytes([chance.choice(b"aA0 \t\r\n:;=,\x00\xff")])
    return data[:at] + fill * chance.choice((300, 9_000, _LONGEST_BYTES)) + data[at:]


_MUTATIONS: Sequence[Callable[[random.Random, bytes], bytes]] = (
    _changed_byte, _changed_byte, _flipped_bit, _inserted_piece, _inserted_piece, _inserted_line,
    _inserted_line, _cut_out, _truncated, _repeated, _moved_line, _repeated_line, _other_line_end,
    _other_line_end, _other_number, _other_number, _other_case, _swollen,
)  # fmt: skip
