"""Clients and backends that do anything, at any moment, and know what they may be told.

A backend answers with the number that the proxy gave to a request, and with its target; so no
answer can be a client's that was for another request, or that it had before.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.wires import wire_of

if TYPE_CHECKING:
    import random

    from lbctl.proxy.downstream import Downstream
    from lbctl.proxy.upstream import Upstream

_ASKED = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n(?:[^\r]+\r\n)*?X-Request-Id: \w+-(\w+)\r\n\r\n")
_LENGTH = re.compile(rb"Content-Length: (\d+)\r\n")
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(?:[^\r]+\r\n)*\r\n")
_TAG = re.compile(rb"(\d{6}) (/[^~]*)~+")
_LAST_CHUNK = b"0\r\n\r\n"

_POST = b"POST %b HTTP/1.1\r\nHost: s\r\n"
_UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
_REQUESTS = (
    *[b"GET %b HTTP/1.1\r\nHost: s\r\n\r\n"] * 6,
    b"HEAD %b HTTP/1.1\r\nHost: s\r\n\r\n",
    b"GET %b HTTP/1.0\r\n\r\n",
    b"GET %b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET %b HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n",
    b"GET %b HTTP/1.1\r\nHost: s\r\n" + _UPGRADE,
    _POST + b"Content-Length: 0\r\n\r\n",
    _POST + b"Content-Length: 5\r\n\r\nhello",
    _POST + b"Content-Length: 120\r\n\r\n" + b"x" * 120,
    _POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n40\r\n" + b"x" * 64 + b"\r\n0\r\n\r\n",
)
_NONSENSE = (b"BAD\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"y" * 300, b"POST / HTTP/3.0\r\n\r\n")

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n"
_ANSWERS = (
    *[_OK + b"\r\n%b"] * 6,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n%b\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + _OK + b"\r\n%b",
    _OK + b"Connection: close\r\n\r\n%b",
    b"HTTP/1.1 500 Oops\r\nContent-Length: 16\r\n\r\n%b",
    b"HTTP/1.1 204 No Content\r\nX-Tag: %b\r\n\r\n",
)
_UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n%b"
_SURPLUS = _OK + b"\r\n%b" + _OK + b"\r\n999999 /nobodys~"
_NO_HTTP = b"junk\r\n\r\n"
_SWITCH = b"HTTP/1.1 101 Switching\r\n" + _UPGRADE


@dataclass(frozen=True)
class Asked:
    """A request. `target` is empty for what is none."""

    method: bytes
    target: bytes
    number: int = 0


class Book:
    """What is written down of a run, for all ends."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.served: dict[int, bytes] = {}  # targets by the numbers of answers nobody has yet
        self.attempts: Counter[int] = Counter()  # by number
        self.cut_off = False  # an answer that ends with its connection ended before it was whole

    def note(self, *what: object) -> None:
        self.story.append(" ".join(str(one) for one in what))


class Visitor:
    """A client: what it asked, and what it has yet to send."""

    def __init__(self, book: Book, number: int, protocol: Downstream) -> None:
        self.name = f"client {number}"
        self._book = book
        self._target = b"/%d" % number
        self.protocol = protocol
        self.wire = wire_of(protocol)
        self.asked: list[Asked] = []
        self.outbox = b""
        self.ended = False
        self.state: tuple[object, ...] = ()  # of the connection, as far as it tells its timeout
        self.since = 0.0  # when that began
        self.number, self.whole_since = 0, 0.0  # its request, and when all of that had come
        self.had_choice = True  # of backends, all the time since

    def ask(self, chance: random.Random) -> None:
        if self.ended or (self.asked and not self.asked[-1].target):
            return
        if chance.random() < 0.05:
            self.asked.append(Asked(b"", b""))
            self.outbox += chance.choice(_NONSENSE)
            return
        form = chance.choice(_REQUESTS)
        target = self._target
        if chance.random() < 0.2:  # its bytes were not met before
            target += b"/%d" % len(self.asked)
        self.asked.append(Asked(form[: form.index(b" ")], target))
        self.outbox += b"\r\n" * (chance.random() < 0.1) + form % target

    def send(self, chance: random.Random) -> None:
        while self.outbox and not self.ended and self.wire.delivers:
            part = _cut(self.outbox, chance)
            self.outbox = self.outbox[len(part) :]
            self._book.note(self.name, "sends", part)
            self.wire.deliver(part)
            if chance.random() < 0.5:
                return

    def end(self) -> None:
        if self.wire.delivers:
            self._book.note(self.name, "ends")
            self.ended = True
            self.wire.deliver_end()

    def check_answers(self) -> None:
        """Each answer is the one to the request in its place, whole unless the end was a reset."""
        rest, whole = bytes(self.wire.sent), True
        for asked in self.asked:
            head = _HEAD.match(rest)
            while head and head[1] == b"100":
                rest = rest[head.end() :]
                head = _HEAD.match(rest)
            if head is None or head[1] == b"101":
                break
            method = asked.method if head[1] != b"408" else b""  # its head never came
            body, rest, whole = _body(head[0], method, rest[head.end() :])
            tag = _TAG.search(head[0] + body)
            if tag is not None:
                got, served = tag[2], self._book.served.pop(int(tag[1]), b"")
                assert got == served == asked.target, f"{self.name} got {tag[0]!r} for {asked}"
            elif not _LENGTH.search(head[0]) and not self._book.cut_off:
                whole = False
            if not whole:
                break
        else:
            head = _HEAD.match(rest)
            if head is not None and head[1] == b"408":  # half of a request that came no further
                whole, rest = True, _body(head[0], b"", rest[head.end() :])[1]
            assert not rest or self.wire.aborted, f"{self.name} has {rest!r} too many"
        ended = self.wire.is_closing() and not self.wire.aborted
        assert whole or not ended, f"{self.name} takes a part of an answer for all of it"

    def answers(self) -> int:
        """How many final heads came."""
        return len([one for one in _HEAD.finditer(self.wire.arrived) if one[1] != b"100"])


def _body(head: bytes, method: bytes, data: bytes) -> tuple[bytes, bytes, bool]:
    """An answer's body, what is behind it, and whether it is whole."""
    length = _LENGTH.search(head)
    if method == b"HEAD" or head[9:12] in (b"204", b"101"):
        end = 0
    elif length:
        end = int(length[1])
    elif b"chunked" in head:
        end = data.find(_LAST_CHUNK)
        end = len(data) + 1 if end < 0 else end + len(_LAST_CHUNK)
    else:
        end = len(data)
    return data[:end], data[end:], len(data) >= end


class Server:
    """A backend's end of a connection."""

    def __init__(self, book: Book, number: int, upstream: Upstream) -> None:
        self.protocol = upstream
        self.wire = wire_of(upstream)
        self.name = f"server {number} ({upstream.pool.name})"
        self._book = book
        self._read_bytes = 0
        self._head = b""
        self.asked: Asked | None = None  # and not yet answered
        self.outbox = b""
        self.last = False  # after the outbox comes the end
        self.ended = False

    def read(self) -> None:
        """A head, if one has come; on a connection that was used, behind a whole request."""
        head = _ASKED.search(self.wire.arrived, self._read_bytes)
        if head is None:
            return
        busy = self.asked is not None or bool(self.outbox)
        assert not busy, f"{self.name}: the next request too soon"
        self._check_body(self.wire.arrived[self._read_bytes : head.start()])
        self._head, self._read_bytes = head[0], head.end()
        self.asked = asked = Asked(head[1], head[2], int(head[3], 16))
        book = self._book
        book.note(self.name, "is asked", head[1], head[2], asked.number)
        book.attempts[asked.number] += 1
        repeatable = asked.method != b"POST"
        assert book.attempts[asked.number] <= 1 + repeatable, f"{asked} was sent too often"

    def _check_body(self, data: bytes) -> None:
        framed = _LENGTH.search(self._head) or b"chunked" in self._head
        _, rest, whole = _body(self._head, b"", data) if framed else (b"", data, True)
        assert (whole, rest) == (True, b""), f"{self.name}: {data!r} between two requests"

    def answer(self, chance: random.Random, *, well: bool = False) -> None:
        asked = self.asked
        if asked is None or self.outbox:
            return
        self.asked = None
        tag = b"%06d %b" % (asked.number, asked.target.ljust(9, b"~"))
        if asked.method == b"HEAD":
            self.outbox = _OK + b"X-Tag: %b\r\n\r\n" % tag
        elif b"Upgrade: websocket" in self.wire.arrived and chance.random() < 0.7:
            self.outbox = _SWITCH + b"tunnelled"
        elif well or chance.random() < 0.75:
            self.outbox = chance.choice(_ANSWERS) % tag
        else:
            form = chance.choice((_UNTIL_CLOSE, _SURPLUS, _NO_HTTP))
            self.outbox = form if form is _NO_HTTP else form % tag
            self.last = form is _UNTIL_CLOSE
        self._book.served[asked.number] = asked.target

    def send(self, chance: random.Random) -> None:
        while self.outbox and not self.ended and self.wire.delivers:
            # A second answer that comes later than the first is no surplus: nobody can tell.
            part = self.outbox if b"nobodys" in self.outbox else _cut(self.outbox, chance)
            self.outbox = self.outbox[len(part) :]
            self._book.note(self.name, "sends", part)
            self.wire.deliver(part)
            if chance.random() < 0.3:
                break
        if self.last and not self.outbox:
            self.end()

    def end(self) -> None:
        if self.wire.delivers:
            self._book.note(self.name, "ends")
            self._book.cut_off |= self.last and bool(self.outbox)
            self.ended = True
            self.wire.deliver_end()


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data if chance.random() < 0.7 else data[: chance.randint(1, len(data))]
