"""Sticky sessions: a cookie names the backend that a client is to meet again.

The value is a digest of the backend's id. Ids are random and say nothing about addresses, and
the digest does not even show them. It is not keyed: whoever makes up a value can at most choose
his backend, which harms nobody, and workers need no secret. The same id has the same value on
every worker, of every lb, after every restart.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Generic

from lbctl.core.balancing.policy import C

if TYPE_CHECKING:
    from collections.abc import Iterable

_VALUE_BYTES = 8


def cookie_value(backend_id: str) -> bytes:
    """16 hexadecimal digits that stand for a backend."""
    digest = blake2b(backend_id.encode(), digest_size=_VALUE_BYTES, person=b"lbctl-sticky")
    return digest.hexdigest().encode("ascii")


class StickyTable(Generic[C]):
    """Which of the present candidates a cookie's value means."""

    __slots__ = ("_candidates",)

    def __init__(self) -> None:
        self._candidates: dict[bytes, C] = {}

    def update(self, candidates: Iterable[C]) -> None:
        """From now on, only these can be meant."""
        self._candidates = {cookie_value(one.name): one for one in candidates}

    def find(self, value: bytes) -> C | None:
        """None for one that is gone, and for whatever a client makes up: then ask the policy,
        and set the cookie anew.
        """
        return self._candidates.get(value)
