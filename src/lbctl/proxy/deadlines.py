"""Timeouts that cost nothing a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.config import Timeouts

_LINGER_S = 2.0


class Deadlines:
    """When each timeout ends that starts now, on a clock that stands still while the event loop
    does.

    The sweep moves them on a few times a second; a connection that starts to wait copies one
    number. So a deadline is up to one interval of the sweep early, and found up to one late.
    """

    __slots__ = (
        "_handshake_s",
        "_timeouts",
        "body_idle",
        "client_head",
        "client_idle",
        "handshake",
        "linger",
        "now",
        "response",
        "silence",
        "tunnel_idle",
        "upstream_idle",
    )

    def __init__(self, timeouts: Timeouts, now: float, handshake_s: float) -> None:
        self._timeouts = timeouts
        self._handshake_s = handshake_s
        self.advance(now)

    def advance(self, now: float) -> None:
        timeouts = self._timeouts
        self.now = now
        self.handshake = now + self._handshake_s
        self.client_head = now + timeouts.head_timeout_s
        self.client_idle = now + timeouts.client_idle_timeout_s
        self.response = now + timeouts.response_timeout_s
        self.silence = now + min(timeouts.try_timeout_s, timeouts.response_timeout_s)
        self.body_idle = now + timeouts.body_idle_timeout_s
        self.upstream_idle = now + timeouts.upstream_idle_timeout_s
        self.tunnel_idle = now + timeouts.tunnel_idle_timeout_s
        self.linger = now + _LINGER_S
