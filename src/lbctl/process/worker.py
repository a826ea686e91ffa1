"""A worker: one event loop that proxies. It knows no Docker and no secret.

It routes on the last snapshot it was given, first on the one that was left in the state
directory; whether a controller lives only decides whether newer ones come.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvloop

from lbctl.process import wire
from lbctl.process.output import Output
from lbctl.proxy.accesslog import AccessLog
from lbctl.proxy.forwarder import Forwarder
from lbctl.proxy.listener import Listener
from lbctl.proxy.tls import TlsPort

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from sys import UnraisableHookArgs

    from lbctl.certificates import Credentials
    from lbctl.config import Config
    from lbctl.model import Failure
    from lbctl.paths import Paths
    from lbctl.process.board import Board
    from lbctl.proxy.gate import Ledger

_log = logging.getLogger("lbctl.worker")

_REPORT_INTERVAL_S = 0.25
_RECONNECT_S = 0.1
_TURNS_TO_END = 4
_EVERYTHING_EVERY = 40
"""Every so many reports all counters are sent, not only those that moved."""


@dataclass(frozen=True, slots=True)
class Seat:
    """What the supervisor gives to a worker."""

    number: int
    name: str
    config: Config
    paths: Paths
    sockets: Sequence[socket.socket]
    board: Board
    via: str = "lbctl"
    """The lb's name in Via fields: one for all its workers, and nobody else's."""
    ledger: Ledger | None = None
    """What all of its workers know of their clients."""
    tls_sockets: Sequence[socket.socket] = ()
    credentials: Credentials | None = None


def main(seat: Seat) -> None:
    """Run until SIGTERM, then until the clients have left or the drain timeout passed."""
    sys.unraisablehook = _say_in_a_line
    uvloop.run(_run(seat))


def _say_in_a_line(what: UnraisableHookArgs) -> None:
    """What nobody could catch. A client that asks for a host in no ASCII (SNI) is such a case, and
    is refused by its handshake; it may not write pages into the log.
    """
    if not isinstance(what.exc_value, UnicodeDecodeError):
        _log.error("this should not happen: %r (%s)", what.exc_value, what.err_msg)


async def _run(seat: Seat) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor's to decide
    link = Link(seat)
    output = Output(role=seat.name)
    access_log = (
        AccessLog(
            output.write,
            seat.config.access_log_sample,
            query=seat.config.access_log_query == "on",
        )
        if seat.config.access_log == "json"
        else None
    )
    forwarder = Forwarder(
        seat.config,
        name=seat.via,
        first_turn=seat.number,
        access_log=access_log,
        ledger=seat.ledger,
        on_suspect=link.suspect,
        on_failing=link.failing,
        on_settled=link.report_soon,
    )

    def others() -> list[int]:
        seat.board.write(seat.number, len(forwarder.downstreams))
        return seat.board.others(seat.number)

    tls = TlsPort(forwarder, seat.credentials) if seat.credentials is not None else None
    listener = Listener(forwarder, seat.sockets, others, seat.tls_sockets, tls)
    _route_on_last_snapshot(seat.paths, forwarder)
    others()
    listener.start()
    await listener.opened()
    seat.board.tell_ready(seat.number)
    talking = asyncio.create_task(link.run(forwarder, lambda: output.lost))
    beating = asyncio.create_task(_beat(others))
    await stop.wait()
    listener.stop()
    for one in (*seat.sockets, *seat.tls_sockets):
        one.close()
    await forwarder.drain(seat.config.control.drain_timeout_s)
    forwarder.close()
    if tls is not None:
        tls.close()
    for _ in range(_TURNS_TO_END):  # for connection_lost() of the last ones, and the last report
        await asyncio.sleep(0)
        link.report_soon()
    if access_log is not None:
        access_log.flush()
    for task in (talking, beating):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _beat(others: Callable[[], object]) -> None:
    while True:
        others()
        await asyncio.sleep(_REPORT_INTERVAL_S)


def _route_on_last_snapshot(paths: Paths, forwarder: Forwarder) -> None:
    try:
        forwarder.apply(wire.snapshot_of(json.loads(paths.snapshot.read_bytes())))
    except FileNotFoundError:
        return  # the first worker of a new stack
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("the last snapshot cannot be read: %s", error)


class Link:
    """The worker's end of the socket to the controller; connects again for ever."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._life = secrets.token_hex(8)  # counters are counted from its beginning
        self._writer: asyncio.StreamWriter | None = None
        self._wake = asyncio.Event()
        self._sent = 0

    def suspect(self, backend_id: str) -> None:
        """Live traffic failed on this backend."""
        self._say({"suspect": backend_id})

    def failing(self, backend_id: str, cause: Failure) -> None:
        """So many requests in a row failed on it that it may have to go."""
        self._say({"failing": backend_id, "reason": cause.value})

    def _say(self, document: dict[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.encode(document))

    def report_soon(self) -> None:
        """Something the controller waits for has happened."""
        self._wake.set()

    async def run(self, forwarder: Forwarder, lost: Callable[[], int]) -> None:
        """`lost` is how many lines of the access log there was no room for."""
        while True:
            with contextlib.suppress(OSError, ValueError):
                await self._talk(forwarder, lost)
            await asyncio.sleep(_RECONNECT_S)

    async def _talk(self, forwarder: Forwarder, lost: Callable[[], int]) -> None:
        reader, writer = await asyncio.open_unix_connection(
            str(self._seat.paths.workers_socket), limit=wire.LINE_LIMIT_BYTES
        )
        self._writer = writer
        self._sent = 0
        hello = {"life": self._life, "name": self._seat.name, "pid": os.getpid()}
        writer.write(wire.encode({"hello": hello}))
        reporting = asyncio.create_task(self._report(forwarder, lost, writer))
        try:
            while line := await reader.readline():
                document = wire.decode(line)
                if "snapshot" in document:
                    forwarder.apply(wire.snapshot_of(document["snapshot"]))
                    self.report_soon()
        finally:
            self._writer = None
            reporting.cancel()
            writer.close()

    async def _report(
        self, forwarder: Forwarder, lost: Callable[[], int], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            everything = self._sent % _EVERYTHING_EVERY == 0
            self._sent += 1
            report = _report(forwarder, lost(), everything=everything)
            writer.write(wire.encode({"report": report}))
            await writer.drain()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REPORT_INTERVAL_S):
                    await self._wake.wait()


def _report(forwarder: Forwarder, lost: int, *, everything: bool) -> dict[str, Any]:
    """What was counted since this worker began; only the backends where something moved or is
    under way."""
    backends: dict[str, Any] = {}
    upstreams = 0
    for pool in list(forwarder.pools.values()):
        upstreams += len(pool.open)
        if not pool.changed:
            forwarder.forget(pool.backend.id)  # where it is gone; the controller has it all
        if pool.changed or pool.in_flight or everything:
            pool.changed = False
            backends[pool.backend.id] = {
                "name": pool.backend.name,
                "pool": pool.number,
                "codes": pool.codes,
                "buckets": pool.buckets,
                "duration_sum_s": pool.duration_sum_s,
                "in_flight": pool.in_flight,
                "retries": pool.retries,
            }
    return {
        "revision": forwarder.revision,
        "everything": everything,
        "tasks": len(asyncio.all_tasks()),
        "connections": {"downstream": len(forwarder.downstreams), "upstream": upstreams},
        "refused": forwarder.refused,
        "lost": lost,
        "backends": backends,
    }
