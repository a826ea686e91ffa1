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
    from collections.abc import Callable

    from lbctl.model import Process

_log = logging.getLogger("lbctl.peers")

_STARTS_S = 5.0
"""An lb whose workers serve has a controller within a second, and after a reload another."""
_RENEWAL_S = 2.0
"""So long a controller is known that went to be renewed."""


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
        self,
        lb: str,
        settings_digest: Callable[[], str],
        serving: Callable[[], set[str]],
        changed: asyncio.Condition,
    ) -> None:
        """`settings_digest` is of what every lb is to be set to; `serving` are the names of the lbs
        that have workers; `changed` is told whenever one comes or goes, a worker among them.
        """
        self._lb = lb
        self._settings_digest = settings_digest
        self._serving = serving
        self._changed = changed
        self._present: list[Peer] = []
        self._left: dict[str, tuple[float, Peer]] = {}  # by lb: the last one, and when
        self._set_right: set[tuple[str, str]] = set()  # by what they were set to
        self._numbered = 0

    @property
    def lbs(self) -> list[str]:
        """The lbs whose controllers are here; twice the name of one that is being replaced."""
        return sorted(peer.lb for peer in self._present)

    def processes(self) -> list[Process]:
        """Of the other lbs. Those of one that serves stay known while it has no controller."""
        told = [process for peer in self._present for process in peer.processes]
        known = {process.lb for process in told}
        renewed_s = time.monotonic() - _RENEWAL_S
        for lb in self._left.keys() & self._serving() - known:
            left_s, peer = self._left[lb]
            renewed = peer.is_renewed and left_s > renewed_s
            told += [one for one in peer.processes if renewed or one.role != "controller"]
        return told

    def forget(self, lb: str) -> None:
        """The last worker of that lb is gone."""
        self._left.pop(lb, None)

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
            if lb in self._serving():
                self._left[lb] = (time.monotonic(), peer)
            if not peer.is_renewed:  # it may have missed that as well
                self._set_right.discard((lb, settings))
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

    async def reload(self, within_s: float) -> None:
        """Have each reload, one after the other, and come back: at no time may all controllers
        be on their way. One that serves and has no controller yet, because it just starts, is
        waited for. Raises OperationError that names who did not reload.
        """

        def missing() -> set[str]:
            return self._serving() - {peer.lb for peer in self._present} - {self._lb}

        await self._until(lambda: not missing(), min(within_s, _STARTS_S))
        for lb in sorted(missing()):
            _log.warning("lb %s has no controller that could be told to reload", lb)
        await self._reload_each(within_s)

    async def take_back(self, within_s: float) -> None:
        """After a reload that failed, for the settings of before: whoever may have come so far."""
        await self._reload_each(within_s, tolerant=True)

    async def _reload_each(self, within_s: float, *, tolerant: bool = False) -> None:
        renewed = set[Peer | None]()
        while left := [peer for peer in self._present if peer not in renewed]:
            peer = min(left, key=attrgetter("lb"))
            renewed.add(peer)
            try:
                renewed.add(await self._reload_one(peer, within_s))
            except OperationError as error:
                if not tolerant:
                    raise
                _log.error("%s; it may go on with settings that did not work", error)

    async def _reload_one(self, peer: Peer, within_s: float) -> Peer | None:
        """Returns the controller that took its place, if one did."""
        if peer.answer is not None:  # it is being set right
            target, error = peer.target, await self._answered(peer, within_s)
            if not error:
                back = await self._back(peer, within_s)
                if back is None or target == self._settings_digest():
                    return back
                return await self._reload_one(back, within_s)
            if peer not in self._present:
                return None
        self._tell(peer)
        error = await self._answered(peer, within_s)
        if error == wire.ENDING:
            return None
        if error:
            raise OperationError(f"lb {peer.lb} has not reloaded: {error}")
        back = await self._back(peer, within_s)
        if back is None or back.answer is None:
            return back
        return await self._reload_one(back, within_s)  # its environment makes it another again

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

        if not await self._until(lambda: back() is not None, min(within_s, _STARTS_S)):
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
