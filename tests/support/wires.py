"""The request path without sockets: transports, a clock and an event loop moved by hand.

What a protocol can see of uvloop's transports is as there: a write past the high-water mark
calls pause_writing() before it returns, a closed one flushes first, an aborted one does not, and
whoever writes behind connection_lost() or write_eof() gets a RuntimeError.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from lbctl.proxy.forwarder import Forwarder
from lbctl.proxy.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.config import Config
    from lbctl.proxy.downstream import Downstream
    from lbctl.proxy.pool import Pool


class Timer:
    """Something that is done later, unless it is cancelled."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualLoop:
    """Of an event loop what the request path uses: it does what was put off, and its clock moves,
    when it is told to.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self._soon: list[Callable[[], object]] = []
        self._timers: list[Timer] = []

    @property
    def idle(self) -> bool:
        """Whether nothing is put off."""
        return not self._soon

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self._soon.append(lambda: callback(*args))

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Timer:
        timer = Timer(self.now + delay, lambda: callback(*args))
        self._timers.append(timer)
        return timer

    def turn(self) -> None:
        """One turn: what was put off up to now."""
        soon, self._soon = self._soon, []
        for one in soon:
            one()

    def settle(self) -> None:
        """Turns, until nothing is put off any more."""
        while self._soon:
            self.turn()

    def advance(self, seconds: float) -> None:
        """Let time pass, with every timer on time."""
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer.when <= end]:
            first = min(due, key=lambda timer: timer.when)
            self._timers.remove(first)
            self.now = max(self.now, first.when)  # late, where a test moved the clock itself
            if not first.cancelled:
                first.callback()
        self.now = end


class _Socket:
    """Takes every option; no error is pending on it."""

    def setsockopt(self, *_: object) -> None:
        pass

    def getsockopt(self, *_: object) -> int:
        return 0


class Wire(asyncio.Transport):
    """A transport; the test is the kernel and the other end.

    `jammed`: the kernel takes nothing more, so what is written is held in the buffer.
    """

    def __init__(self, loop: ManualLoop, protocol: asyncio.Protocol) -> None:
        super().__init__({"socket": _Socket(), "peername": ("192.0.2.7", 50_000)})
        self._loop = loop
        self._protocol = protocol
        self._high_bytes = 65_536
        self._paused_writer = False
        self._closing = False
        self._reading = True
        self._got_end = False
        self.jammed = False
        self.held_bytes = 0
        self.sent = bytearray()
        self.ended = False  # by write_eof()
        self.aborted = False
        self.lost = False
        protocol.connection_made(self)

    # The kernel and the other end.

    @property
    def arrived(self) -> bytes:
        """What the other end has of all that was written."""
        return bytes(self.sent[: len(self.sent) - self.held_bytes])

    @property
    def delivers(self) -> bool:
        """Whether something that the other end sends would be read now."""
        return self._reading and not self._closing and not self.lost

    def deliver(self, data: bytes) -> None:
        assert self.delivers
        assert not self._got_end
        self._protocol.data_received(data)

    def deliver_end(self) -> None:
        """The other end's FIN. A transport that reads on after it gets it again."""
        assert self.delivers
        self._got_end = True
        if self._protocol.eof_received():
            self._reading = False
        else:
            self.close()

    def lose(self) -> None:
        """A reset, or the end of a close."""
        if not self.lost:
            self._closing = self.aborted = True
            self._drop()
            self._protocol.connection_lost(None)
            self.lost = True

    def drain(self) -> None:
        """The kernel takes everything again."""
        self.jammed = False
        self.held_bytes = 0
        if self._paused_writer:
            self._paused_writer = False
            self._protocol.resume_writing()
        if self._closing and not self.aborted:
            self._loop.call_soon(self._finish)

    def _finish(self) -> None:
        if not self.lost and not self.held_bytes:
            self._protocol.connection_lost(None)
            self.lost = True

    def _drop(self) -> None:
        del self.sent[len(self.sent) - self.held_bytes :]
        self.held_bytes = 0

    # As the protocols see it.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.lost or self.ended:
            raise RuntimeError("written behind the end")
        if self.aborted or (self._closing and not self.held_bytes):
            return
        self.sent += data
        if self.jammed:
            self.held_bytes += len(data)
            if self.held_bytes > self._high_bytes and not self._paused_writer:
                self._paused_writer = True
                self._protocol.pause_writing()

    def write_eof(self) -> None:
        if self.lost:
            raise RuntimeError("written behind the end")
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._reading = False
            if not self.held_bytes:
                self._loop.call_soon(self._finish)

    def abort(self) -> None:
        if not self.aborted and not self.lost and not (self._closing and not self.held_bytes):
            self._closing = self.aborted = True
            self._reading = False
            self._drop()
            self._loop.call_soon(self._finish)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        if not self._closing:
            self._reading = False

    def resume_reading(self) -> None:
        if not self._closing:
            self._reading = True

    def get_write_buffer_size(self) -> int:
        return self.held_bytes

    def set_write_buffer_limits(
        self,
        high: int | None = None,
        low: int | None = None,  # noqa: ARG002 - it resumes when all is drained
    ) -> None:
        if high is not None:
            self._high_bytes = high


class WiredForwarder(Forwarder):
    """A forwarder whose connections the test makes, or refuses."""

    def __init__(self, config: Config, loop: ManualLoop, **options: Any) -> None:
        with patch.object(asyncio, "get_running_loop", lambda: loop):
            super().__init__(config, **options)
        self.manual = loop
        self.asked_for: list[tuple[Pool, Downstream]] = []

    def connect(self, pool: Pool, downstream: Downstream) -> None:
        self.asked_for.append((pool, downstream))

    def accept(self) -> tuple[Downstream, Wire]:
        """A client comes."""
        downstream = self.client()
        return downstream, Wire(self.manual, downstream)

    def connected(self, which: int = 0) -> tuple[Upstream, Wire]:
        """A connection that was asked for is made."""
        pool, downstream = self.asked_for.pop(which)
        upstream = Upstream(self, pool)
        wire = Wire(self.manual, upstream)
        pool.open.add(upstream)
        downstream.connected(upstream, 0.001)
        return upstream, wire

    def refused_to_connect(self, which: int = 0) -> None:
        pool, downstream = self.asked_for.pop(which)
        downstream.connect_failed(pool, "connect_failed")


def wire_of(connection: Downstream | Upstream) -> Wire:
    return cast("Wire", connection.transport)
