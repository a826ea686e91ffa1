"""The leader's end of the controllers of the other lbs: which processes these have, and how they
reload.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from lbctl.errors import OperationError
from lbctl.process import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lbctl.model import Process

_log = logging.getLogger("lbctl.peers")

_STARTS_S = 5.0
"""An lb whose workers serve has a controller within a second."""
_RENEWAL_S = 2.0
"""So long the processes of an lb are known whose controller went to be renewed."""


@dataclass(slots=True, eq=False)
class Peer:
    """One of them, connected. An lb has two of them while it is replaced."""

    lb: str
    number: int  # in the order in which they came
    writer: asyncio.StreamWriter
    processes: tuple[Process, ...] = ()
    answer: asyncio.Future[str] | None = None  # once it was told to reload: the error, or ""
    target: str = ""  # the digest of the settings that it was to reload to
    newest: int = 0  # the number of the last that had come then

    @property
    def is_renewed(self) -> bool:
        """Whether another one is about to take its place, after a reload."""
        return self.answer is not None and self.answer.done() and not self.answer.result()

    def answered(self, error: str) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(error)


class Peers:
    """Those that follow the controller of lb `lb`. Owned by the hub, whose socket they use."""

    def __init__(
        self, lb: str, settings_digest: Callable[[], str], changed: asyncio.Condition
    ) -> None:
        """`settings_digest` is of what every lb is to be set to; `changed` is told whenever one
        comes or goes, a worker among them.
        """
        self._lb = lb
        self._settings_digest = settings_digest
        self._changed = changed
        self._present: list[Peer] = []
        self._renewed: dict[str, tuple[float, tuple[Process, ...]]] = {}  # by lb: since when
        self._set_right: set[tuple[str, str]] = set()  # by what they were set to
        self._numbered = 0

    @property
    def lbs(self) -> list[str]:
        """The lbs whose controllers are here; twice the name of one that is being replaced."""
        return sorted(peer.lb for peer in self._present)

    def processes(self) -> list[Process]:
        """Of the other lbs."""
        told = [process for peer in self._present for process in peer.processes]
        known = {process.lb for process in told}
        latest_s = time.monotonic() - _RENEWAL_S
        for lb, (left_s, processes) in self._renewed.items():
            if lb not in known and left_s > latest_s:
                told += processes
        return told

    def close(self) -> None:
        for peer in self._present:
            peer.writer.close()

    async def serve(
        self, lb: str, settings: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Until it leaves. Raises OSError, ValueError, KeyError or TypeError where it says what it
        must not.
        """
        self._numbered += 1
        peer = Peer(lb, self._numbered, writer)
        self._set_peer_right(peer, settings)
        self._present.append(peer)
        try:
            await self._notify()
            while line := await reader.readline():
                document = wire.decode(line)
                if "processes" in document:
                    peer.processes = wire.processes_of(document["processes"], lb)
                else:
                    peer.answered(str(document["reloaded"]))
        finally:
            self._present.remove(peer)
            if peer.is_renewed:
                self._renewed[lb] = (time.monotonic(), peer.processes)
            peer.answered("its controller is gone")
            await self._notify()

    def _set_peer_right(self, peer: Peer, settings: str) -> None:
        """Have one reload that missed a reload. Once: where it is set to something else in its
        environment, that is how it stays.
        """
        known = (peer.lb, settings)
        if settings and settings != self._settings_digest() and known not in self._set_right:
            self._set_right.add(known)
            _log.info("lb %s has other settings: it is to reload", peer.lb)
            self._tell(peer)

    async def reload(self, within_s: float, serving: Callable[[], Collection[str]]) -> None:
        """Have each reload, one after the other, and come back: at no time may all controllers
        be on their way. `serving` are the names of the lbs that have workers: one of them that has
        no controller yet, because it just starts, is waited for. Raises OperationError that names
        who did not reload.
        """

        def missing() -> set[str]:
            return set(serving()) - {peer.lb for peer in self._present} - {self._lb}

        if not await self._until(lambda: not missing(), min(within_s, _STARTS_S)):
            lbs = " and ".join(sorted(missing()))
            _log.warning("lb %s has no controller that could be told to reload", lbs)
        renewed = set[Peer | None]()
        while left := [peer for peer in self._present if peer not in renewed]:
            peer = min(left, key=attrgetter("lb"))
            renewed |= {peer, await self._reload_one(peer, within_s)}

    async def _reload_one(self, peer: Peer, within_s: float) -> Peer | None:
        """Returns the controller that took its place, if one did."""
        if peer.answer is not None:  # it is being set right
            target, error = peer.target, await self._answered(peer, within_s)
            if not error:
                back = await self._back(peer, within_s)
                if back is None or target == self._settings_digest():
                    return back
                peer = back
            elif peer not in self._present:
                return None
        self._tell(peer)
        error = await self._answered(peer, within_s)
        if error == wire.ENDING:
            return None
        if error:
            raise OperationError(f"lb {peer.lb} has not reloaded: {error}")
        return await self._back(peer, within_s)

    def _tell(self, peer: Peer) -> None:
        peer.answer = asyncio.get_running_loop().create_future()
        peer.target, peer.newest = self._settings_digest(), self._numbered
        peer.writer.write(wire.encode({"reload": {}}))

    async def _answered(self, peer: Peer, within_s: float) -> str:
        """What became of it: the error, or "". Raises OperationError if it says nothing."""
        assert peer.answer is not None  # noqa: S101 - it was told
        done, _ = await asyncio.wait((peer.answer,), timeout=within_s)
        if not done:
            raise OperationError(f"lb {peer.lb} has not reloaded: it did not within {within_s:g} s")
        return peer.answer.result()

    async def _back(self, left: Peer, within_s: float) -> Peer | None:
        """The controller that takes this one's place after a reload."""

        def back() -> Peer | None:
            came = (one for one in self._present if one.lb == left.lb and one.number > left.newest)
            return next(came, None)

        if not await self._until(lambda: back() is not None, within_s):
            _log.warning("the controller of lb %s is not back after its reload", left.lb)
        return back()

    async def _until(self, true: Callable[[], bool], within_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(true)
        return true()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
