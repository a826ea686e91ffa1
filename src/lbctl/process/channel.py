"""The supervisor's end of the socketpair to the controller: JSON lines, never blocking."""

from __future__ import annotations

import selectors
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from lbctl.process import wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    Watch = Callable[[socket.socket, int, Callable[[], None]], None]
    """Loop.watch."""


class Owner(Protocol):
    """What a channel asks of its supervisor."""

    def run_program(self, wish: dict[str, Any]) -> str:
        """Returns an error, or ""."""

    def stop_program(
        self, name: str, number: int, grace_s: float, done: Callable[[], None]
    ) -> None:
        """Calls `done` when it is gone."""

    def reload(self, done: Callable[[str], None]) -> None:
        """Calls `done` with an error, or ""."""


class Channel:
    """One controller's; the next one gets a new channel."""

    def __init__(self, owner: Owner, watch: Watch, one: socket.socket) -> None:
        self._owner = owner
        self._watch = watch
        self._socket = one
        self._in = b""
        self._out = b""
        one.setblocking(False)
        watch(one, selectors.EVENT_READ, self._ready)

    def send(self, document: dict[str, Any]) -> None:
        self._out += wire.encode(document)
        self._flush()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._watch(self._socket, 0, self._ready)
            self._socket.close()

    def abandon(self) -> None:
        """In a forked child: close the copy, leave the supervisor's selector alone."""
        self._socket.close()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._out) if self._out else 0
            self._out = self._out[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._out = b""  # the controller is gone; its successor gets a new channel
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        self._watch(self._socket, events, self._ready)

    def _ready(self) -> None:
        if self._socket.fileno() < 0:
            return  # closed by what else happened in the same turn
        if self._out:
            self._flush()
        try:
            data = self._socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._watch(self._socket, 0, self._ready)
            return
        *lines, self._in = (self._in + data).split(b"\n")
        for line in lines:
            self._handle(wire.decode(line))

    def _handle(self, wish: dict[str, Any]) -> None:
        answer = partial(self._answer, wish["id"])
        if "run" in wish:
            answer(self._owner.run_program(wish["run"]))
        elif "stop" in wish:
            stop = wish["stop"]
            self._owner.stop_program(
                str(stop["name"]), int(stop["signal"]), float(stop["grace_s"]), partial(answer, "")
            )
        elif "reload" in wish:
            self._owner.reload(answer)

    def _answer(self, number: int, error: str) -> None:
        if self._socket.fileno() >= 0:
            self.send({"id": number, "error": error})
