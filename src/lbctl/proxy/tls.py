"""TLS between libuv's transport and a client's connection, which sees a transport like any other.

asyncio's own layer would do for most of it. It cannot close one direction alone, counts nobody
who has not ended his handshake, and asks one timer for each; here a handshake is one of the
worker's connections from its first moment, and the sweep that ends all others ends it too.

proxy/handshakes.py says who works off handshakes. Whom the limits of client networks keep out is
ended before his begins.

Nothing that a client sends reaches the log: what fails is counted.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from ssl import MemoryBIO, SSLError, SSLWantReadError, SSLZeroReturnError
from typing import TYPE_CHECKING, Any, cast

from lbctl.core.forwarding import own_response
from lbctl.core.records import ALERT, HANDSHAKE, RECORD_BYTES, Records, begins_well
from lbctl.proxy.gate import enter, leave
from lbctl.proxy.handshakes import Handshakes
from lbctl.proxy.secure import SecureDownstream, StrictDownstream

if TYPE_CHECKING:
    from ssl import SSLObject

    from lbctl.certificates import Credentials
    from lbctl.proxy.downstream import Downstream
    from lbctl.proxy.forwarder import Forwarder

_HELD_BYTES = 65_536
"""What a client may send while its handshake waits for its turn."""
_FIRST_BYTES = 20_480
"""The same before its handshake has begun: nobody says more than a ClientHello unasked."""
_IDLE_RECORDS = 32
"""So many records may say nothing (new keys, alerts, padding alone), and one more for every 16 that
do: each costs as much as a small request."""
_REASON = "tls"
_TIMED_OUT = "tls_timeout"


class TlsPort:
    """What the TLS connections of one worker share."""

    def __init__(self, forwarder: Forwarder, credentials: Credentials) -> None:
        self.forwarder = forwarder
        self.wrap = credentials.wrap
        kind = StrictDownstream if forwarder.hsts_line else SecureDownstream
        self._kind = forwarder.limited(kind)
        self.handshakes = Handshakes(forwarder.loop)

    def close(self) -> None:
        self.handshakes.close()

    def client(self) -> TlsConnection:
        """The protocol of a connection that was just accepted."""
        return TlsConnection(self)

    def downstream(self, version: str, client: int) -> Downstream:
        return self._kind(self.forwarder, version, client)


class TlsConnection(asyncio.Transport, asyncio.Protocol):
    """One client's: a protocol to libuv, and the transport of a Downstream as soon as there is one.

    Until then it stands in its place among the forwarder's connections.
    """

    __slots__ = (
        "_begun",
        "_client",
        "_closing",
        "_counted",
        "_downstream",
        "_eof",
        "_forwarder",
        "_heard",
        "_held",
        "_idle",
        "_incoming",
        "_outgoing",
        "_port",
        "_queued",
        "_raw",
        "_records",
        "_said_end",
        "_shut",
        "_tls",
        "deadline",
    )

    def __init__(self, port: TlsPort) -> None:
        super().__init__()
        self._port = port
        self._forwarder = port.forwarder
        self._raw: asyncio.Transport
        self._tls: SSLObject  # from its first turn
        self._incoming: MemoryBIO
        self._outgoing: MemoryBIO
        self._downstream: Downstream | None = None  # from the end of the handshake
        self._client = 0  # key of its network, where its connections are counted
        self._records: Records  # from the end of the handshake
        self._idle = 0  # sixteenths of records that said nothing
        self._heard = False  # at least one byte
        self._held = b""  # what came while the handshake waited for its turn, or had it
        self._queued = False
        self._begun = False  # there is an SSLObject
        self._counted = False
        self._closing = False
        self._said_end = False
        self._shut = False  # our half of the raw connection
        self._eof = False  # the client sends no more: what comes all the same is dropped
        self.deadline = port.forwarder.deadlines.handshake

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        self._raw.set_write_buffer_limits(high=self._forwarder.limits.write_buffer_bytes)
        self._forwarder.joined(self)
        peer = transport.get_extra_info("peername")  # None: it was reset meanwhile
        verdict, self._client = enter(self._forwarder, peer[0] if peer else "")
        if verdict:
            self._count(verdict)
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self._downstream is None:
            self._hear(data)
        elif not self._eof:
            self._read(self._downstream, data)

    def eof_received(self) -> bool:
        """A client that sends no more may still read; that it did not say so in TLS is borne
        with, since HTTP tells whether a request is whole.
        """
        downstream, first = self._downstream, not self._eof
        if downstream is None:
            self._eof = self._queued  # all of it may have come: it is told when its turn comes
            return self._queued
        self._eof = True
        if first:
            downstream.eof_received()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        leave(self._forwarder, self._client)
        downstream, self._downstream = self._downstream, None
        if downstream is not None:  # it holds us: without this, memory would wait for the collector
            downstream.connection_lost(exc)
            return
        self._forwarder.left(self)
        self._port.handshakes.left(self)
        if self._heard:
            self._count(_REASON)

    def pause_writing(self) -> None:
        if self._downstream is not None:
            self._downstream.pause_writing()

    def resume_writing(self) -> None:
        if self._downstream is not None:
            self._downstream.resume_writing()

    # The handshake.

    def _hear(self, data: bytes) -> None:
        if self._closing:
            return
        if not self._heard:
            self._heard = True
            if data[0] != HANDSHAKE:
                self._refuse_what_is_no_tls(data)
                return
        self._held += data
        if self._begun:
            if len(self._held) > _HELD_BYTES and self._queued:
                self._raw.pause_reading()  # until its turn was
            self._queue()
            return
        well = begins_well(self._held)
        if well is False or len(self._held) > _FIRST_BYTES:
            self._raw.write(ALERT)
            self._fail()
        elif well:
            self._queue()

    def _queue(self) -> None:
        if not self._queued:
            self._queued = True
            self._port.handshakes.queue(self)

    def prepare(self) -> None:
        """Called by Handshakes: its turn comes."""
        if not self._begun:
            self._incoming, self._outgoing = MemoryBIO(), MemoryBIO()
            self._tls = self._port.wrap(self._incoming, self._outgoing)
            self._begun = True
        held, self._held = self._held, b""
        self._incoming.write(held)

    def give_up(self) -> None:
        """Called by Handshakes: its turn cannot come."""
        self._count(_REASON)
        self.abort()

    def shake(self) -> Exception | None:
        """Called by the thread of Handshakes: one step. Returns why it is not done."""
        try:
            self._tls.do_handshake()
        except Exception as error:  # noqa: BLE001 - it is judged by `shaken`
            return error
        return None

    def shaken(self, error: Exception | None) -> None:
        """Called by Handshakes: how that went."""
        self._queued = False
        if self._closing:
            return
        if not self._raw.is_reading():
            self._raw.resume_reading()
        self._flush()  # in any case: where it failed, an alert says why
        if error is None:
            self._open()
        elif not isinstance(error, SSLWantReadError):
            self._fail()
        elif self._held:
            self._queue()
        elif self._eof:
            self._fail()

    def _open(self) -> None:
        self._forwarder.left(self)
        self._port.handshakes.left(self)
        version = self._tls.version() or ""
        self._downstream = downstream = self._port.downstream(version, self._client)
        downstream.connection_made(self)
        self._records = Records()
        came = self._incoming.read() + self._held  # OpenSSL stops behind a record
        self._held = b""
        if came:
            self._read(downstream, came)
        if self._eof and not self._closing:
            downstream.eof_received()

    def _refuse_what_is_no_tls(self, data: bytes) -> None:
        if data[:1].isalpha():  # most likely a request, by somebody who mistook the port
            self._raw.write(
                own_response(
                    400,
                    "this port speaks TLS: ask with https",
                    self._forwarder.date,
                    minor=1,
                    keep_alive=False,
                )
            )
        self._fail()

    def _fail(self) -> None:
        self._count(_REASON)
        self._closing = True
        self._held = b""
        self._port.handshakes.left(self)
        self.deadline = self._forwarder.deadlines.linger
        self._raw.close()

    def _count(self, reason: str) -> None:
        if not self._counted:
            self._counted = True
            self._forwarder.refused[reason] += 1

    # Called by the forwarder, until there is a Downstream.

    def expired(self) -> None:
        self._count(_TIMED_OUT)
        self.abort()

    def close_if_idle(self) -> None:
        if not self._heard:
            self.close()  # one under way is ended, and its first request answered

    # What came.

    def _read(self, downstream: Downstream, data: bytes) -> None:
        if self._closing:
            return
        parts: list[bytes] = []
        ended = broken = False
        for piece, records in self._records.pieces(data):
            self._incoming.write(piece)
            before = len(parts)
            try:
                ended = self._decrypt(parts)
            except SSLError:
                broken = True
            if self._outgoing.pending:
                self._answer()
            said = len(parts) - before
            self._idle = max(0, self._idle + 16 * (records - said) - said)
            broken = broken or self._idle > 16 * _IDLE_RECORDS
            if ended or broken:
                break
        if parts:
            downstream.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if broken:
            self._said_end = True  # nothing can be said any more
            self._raw.abort()
        elif ended and not self._eof and not self.is_closing():
            self._eof = True
            self._raw.pause_reading()  # as if a FIN had come
            downstream.eof_received()

    def _decrypt(self, parts: list[bytes]) -> bool:
        """Whole records of what came; each that says something is one part. Returns whether the
        client said that this is its end. Raises SSLError.
        """
        incoming, read = self._incoming, self._tls.read
        try:
            while part := read(RECORD_BYTES):
                parts.append(part)
                if not incoming.pending:
                    return False  # which spares an exception
        except SSLWantReadError:
            return False
        except SSLZeroReturnError:
            pass
        return True

    def _answer(self) -> None:
        """What TLS itself has to say (alerts, new keys). Who asks for it and does not read it
        would fill our memory.
        """
        if self._raw.get_write_buffer_size() > 2 * self._forwarder.limits.write_buffer_bytes:
            self._raw.abort()
        else:
            self._flush()

    def _flush(self) -> None:
        said = self._outgoing.read()
        if said and not self._shut and not self._raw.is_closing():
            self._raw.write(said)

    # The transport of a Downstream.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._said_end or not data:
            return
        write = self._tls.write
        try:
            sent = write(data)
            while sent < len(data):  # a record at a time, or the buffer would grow, and stay so
                self._raw.write(self._outgoing.read())
                data = memoryview(data)[sent:]
                sent = write(data)
        except SSLError:
            self.abort()
            return
        self._raw.write(self._outgoing.read())

    def write_eof(self) -> None:
        """The end of what we send; what the client still sends is read (RFC 8446, section 6.1)."""
        if not self._said_end and not self._closing:
            self._say_end()
            self._shut = True
            self._raw.write_eof()

    def _say_end(self) -> None:
        self._said_end = True
        with suppress(SSLError, OSError, ValueError):  # the other end's has not come yet
            self._tls.unwrap()
        self._flush()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if self._closing:
            return
        if self._downstream is not None and not self._said_end:
            self._say_end()
        self._closing = True
        self._raw.close()

    def abort(self) -> None:
        self._closing = True
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        if not self._eof:
            self._raw.resume_reading()

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high=high, low=low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)
