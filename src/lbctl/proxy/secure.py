"""Clients that are treated unlike those of plain HTTP: those over TLS, and those that are sent
there. Which of them a connection is, is decided when it comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.core.redirecting import came_by_tls, is_acme_challenge, secure_location, with_hsts
from lbctl.proxy.downstream import Downstream

if TYPE_CHECKING:
    from lbctl.core.http1 import Response
    from lbctl.core.origin import Origin
    from lbctl.proxy.forwarder import Forwarder

_DRAIN_REST_S = 1.0


class SecureDownstream(Downstream):
    """One client's connection over TLS; its transport is the TlsConnection."""

    __slots__ = ("_since", "_version")

    def __init__(self, forwarder: Forwarder, version: str, client: int) -> None:
        """`client` is the key of its network, if it was counted before its handshake."""
        super().__init__(forwarder)
        self._client = client
        self._version = version
        self._since = forwarder.loop.time()

    def _origin_of(self, ip: str) -> Origin:
        return self._forwarder.origin(ip, self._version)

    def close_if_idle(self) -> None:
        # Its handshake may have ended a moment ago, and its request be on the way.
        if self._forwarder.loop.time() - self._since >= _DRAIN_REST_S:
            super().close_if_idle()


class StrictDownstream(SecureDownstream):
    """The same, told to come by TLS alone from now on."""

    __slots__ = ()

    def answered(self, response: Response, message: bytes) -> None:
        assert self.request is not None  # noqa: S101 - it is being answered
        end = len(response.raw if self.request.keep_alive else response.closing)
        head = with_hsts(message[:end], self._forwarder.hsts_line)
        super().answered(response, head + message[end:])

    def _finish_head(self, head: bytes) -> bytes:
        return with_hsts(super()._finish_head(head), self._forwarder.hsts_line)


class RedirectedDownstream(Downstream):
    """A client of plain HTTP that is to come by TLS, unless it did so to a trusted proxy."""

    __slots__ = ()

    def _dispatch(self) -> None:
        assert self.request is not None  # noqa: S101 - it is what is dispatched
        there = self.origin.trusted and came_by_tls(self.request)
        if there or is_acme_challenge(self.request.target):
            super()._dispatch()
            return
        location = secure_location(self.request, self._forwarder.secure_port)
        if location is None:
            self._refuse(400, "no_host_to_redirect_to")
        else:
            self._refuse(308, "redirect", keep_alive=self._keep_alive, location=location)
