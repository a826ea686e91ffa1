"""Heads that were read before, so that the same bytes are not read twice.

Clients repeat themselves, and so do backends: the head of a request is often the very bytes of
the one before, and a backend's answers differ once a second, in their Date. Looking a head up
costs a hash over it; reading and rewriting it costs twenty times that.
"""

from __future__ import annotations

from typing import TypeVar

M = TypeVar("M")

_ENTRIES = 1024
HEAD_BYTES = 2048
"""Longer heads are not kept, and need not be looked for."""


class Memo(dict[bytes, M]):
    """Messages by the bytes of their heads; look up with `get`.

    Bounded: long heads are not kept, and a full memo starts anew, which costs less than
    remembering who was used last. At most some 6 MiB, with what was written for each head.
    """

    __slots__ = ("_closed",)

    def __init__(self) -> None:
        super().__init__()
        self._closed = False

    def keep(self, head: bytes, message: M) -> None:
        if self._closed or len(head) > HEAD_BYTES:
            return
        if len(self) >= _ENTRIES:
            self.clear()
        self[head] = message

    def close(self) -> None:
        """Forget everything, and keep nothing from now on."""
        self._closed = True
        self.clear()
