"""The controller's end of the workers: hands out snapshots, gathers counters.

A worker reports totals since its own beginning (its "life"), so a lost report or a restarted
controller costs nothing: the next report has it all. What a life counted stays when it is
gone; the file keeps it over restarts of the controller. So counters never go back.

Nor do they grow with time: a backend that its workers have forgotten lives on under its name
only, and of those names that nobody has any more, the oldest become one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lbctl.core.text import printable
from lbctl.model import BackendTraffic, Failure, TrafficTotals
from lbctl.paths import write_atomically
from lbctl.process import reports, wire
from lbctl.process.peers import Peers
from lbctl.sockets import listen

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lbctl.model import Snapshot
    from lbctl.paths import Paths

_log = logging.getLogger("lbctl.hub")

_SAVE_INTERVAL_S = 5.0
_HUNG_S = 1.5
"""A worker reports four times a second; one that was silent so long is not waited for."""
_BACKLOG = 128
_WORKERS_LIMIT = 512  # of all lbs, those that drain included
_KEPT_LIVES = 64
"""Of workers that are gone; older ones are added up into one."""
_RETIRED = "retired"
_KEPT_NAMES = 1000
"""Of backends that are gone."""
_OTHERS = "(gone)"


@dataclass(slots=True)
class _Life:
    """What one worker has counted. `backends` by id, as in the report; of what is gone, by
    `gone/` and the name.
    """

    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    lost: int = 0  # lines of the access log

    def add(self, other: _Life) -> None:
        for backend_id, counted in other.backends.items():
            mine = self.backends.get(backend_id)
            self.backends[backend_id] = counted if mine is None else _sum(mine, counted)
        self.refused = dict(Counter(self.refused) + Counter(other.refused))
        self.lost += other.lost

    def bury(self, other: _Life) -> None:
        """Add what nobody will report again."""
        for counted in other.backends.values():
            self.add(_Life({f"gone/{counted['name']}": counted}))
        self.add(_Life(refused=other.refused, lost=other.lost))
        while len(self.backends) > _KEPT_NAMES:
            oldest = next(key for key in self.backends if key != f"gone/{_OTHERS}")
            counted = self.backends.pop(oldest) | {"name": _OTHERS}
            self.add(_Life({f"gone/{_OTHERS}": counted}))


@dataclass(slots=True, eq=False)
class _Worker:
    """One connected worker."""

    name: str
    pid: int
    life: str
    writer: asyncio.StreamWriter
    revision: int = -1
    heard_s: float = field(default_factory=time.monotonic)
    in_flight: dict[str, int] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)
    tasks: int = 0

    @property
    def lb(self) -> str:
        return self.name.rpartition("/")[0]


class Hub:
    """Implements ports.Routes, and the workers' half of ports.Traffic."""

    def __init__(
        self,
        paths: Paths,
        peer_uids: Collection[int],
        on_suspect: Callable[[str], None],
        on_failing: Callable[[str, Failure], None],
        lb: str = "",
    ) -> None:
        """`on_suspect(backend_id)` hears of a live request that failed, `on_failing(backend_id,
        cause)` of a row of them. `lb` is the name of this one, where there are several.
        """
        self._paths = paths
        self._peer_uids = peer_uids
        self._on_suspect = on_suspect
        self._on_failing = on_failing
        self._snapshot: Snapshot | None = None
        self._workers: set[_Worker] = set()
        self._changed = asyncio.Condition()
        self.settings_digest: Callable[[], str] = str  # of every lb, set by its owner
        self.peers = Peers(lb, lambda: self.settings_digest(), self._serving, self._changed)
        self._server: asyncio.Server | None = None
        self._saving: asyncio.Task[None] | None = None
        self._lives: dict[str, _Life] = _load(paths)

    async def start(self) -> None:
        """Serve in the place of the last leader. Raises OperationError."""
        # Who connects is checked by uid.
        bound, _ = listen(self._paths.workers_socket, 0o666, _BACKLOG)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=bound, limit=reports.LINE_LIMIT_BYTES
        )
        self._saving = asyncio.create_task(self._save_now_and_then())

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._saving is not None:
            self._saving.cancel()
        for worker in self._workers:
            worker.writer.close()
        self.peers.close()
        self._save()

    # ports.Routes

    def route(self, snapshot: Snapshot) -> None:
        """Workers of now get it over their socket, those to come find it in the file."""
        self._snapshot = snapshot
        document = wire.snapshot_document(snapshot)
        line = wire.encode({"snapshot": document})
        for worker in self._workers:  # before the file: a disk may take its time
            worker.writer.write(line)
        try:
            write_atomically(self._paths.snapshot, json.dumps(document).encode())
        except OSError as error:
            _log.warning("the snapshot is not saved, new workers will wait for it: %s", error)

    async def unrouted(self, backend_id: str, deadline_s: float) -> int:
        def settled() -> bool:
            newest = self._snapshot.revision if self._snapshot is not None else 0
            hung = time.monotonic() - _HUNG_S  # it sends nobody a request either
            return self.in_flight(backend_id) == 0 and all(
                worker.revision == newest or worker.heard_s < hung for worker in self._workers
            )

        await self._until(settled, deadline_s)
        return self.in_flight(backend_id)

    def in_flight(self, backend_id: str) -> int:
        return sum(worker.in_flight.get(backend_id, 0) for worker in self._workers)

    # The workers' half of ports.Traffic

    def totals(self) -> TrafficTotals:
        total = _Life()
        for life in self._lives.values():
            total.add(life)
        connections: Counter[str] = Counter()
        for worker in self._workers:
            connections.update(worker.connections)
        return TrafficTotals(
            backends={
                backend_id: BackendTraffic(
                    name=counted["name"],
                    codes=tuple(counted["codes"]),
                    buckets=tuple(counted["buckets"]),
                    duration_sum_s=counted["duration_sum_s"],
                    in_flight=self.in_flight(backend_id),
                    retries=dict(counted["retries"]),
                )
                for backend_id, counted in total.backends.items()
            },
            refused=total.refused,
            connections={side: connections[side] for side in ("downstream", "upstream")},
            tasks={worker.name: worker.tasks for worker in self._workers}
            | {"controller": len(asyncio.all_tasks())},
            clients=self._clients(),
            lost_lines=total.lost,
        )

    def _clients(self) -> Counter[str]:
        """One that drains has the name of the one that took its place."""
        clients: Counter[str] = Counter()
        for worker in self._workers:
            clients[worker.name] += worker.connections.get("downstream", 0)
        return clients

    def keep(self) -> None:
        self._save()

    async def connected(self, count: int, deadline_s: float) -> None:
        """Wait until so many workers have told their counters, or the deadline passed."""

        def complete() -> bool:
            return sum(worker.revision >= 0 for worker in self._workers) >= count

        await self._until(complete, deadline_s)

    def _serving(self) -> set[str]:
        """The lbs that have workers here, by name."""
        return {worker.lb for worker in self._workers if worker.lb}

    async def _until(self, true: Callable[[], bool], within_s: float) -> None:
        """Wait for it, or until so much time has passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(true)

    # The socket.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _peer_uid(writer)
        if uid not in self._peer_uids:
            _log.warning("refused a connection of uid %s to the workers' socket", uid)
            writer.close()
            return
        worker: _Worker | None = None
        try:
            greeting = wire.decode(await reader.readline())
            if "peer" in greeting and uid == os.geteuid():  # no worker may say that it is one
                lb, settings = str(greeting["peer"]), str(greeting.get("settings", ""))
                await self.peers.serve(lb, settings, reader, writer)
                return
            name, pid, life = reports.read_hello(greeting["hello"])
            if len(self._workers) >= _WORKERS_LIMIT:
                raise ValueError(f"there are {_WORKERS_LIMIT} already")
            worker = _Worker(name, pid, life, writer)
            self._workers.add(worker)
            if self._snapshot is not None:
                document = wire.snapshot_document(self._snapshot)
                writer.write(wire.encode({"snapshot": document}))
            while line := await reader.readline():
                await self._heard(worker, wire.decode(line))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("a worker's connection broke: %s", printable(repr(error)))
        finally:
            writer.close()
            if worker is not None:
                self._workers.discard(worker)
                if worker.lb not in self._serving():
                    self.peers.forget(worker.lb)
                await self._notify()

    async def _heard(self, worker: _Worker, document: dict[str, Any]) -> None:
        if "suspect" in document:
            self._on_suspect(reports.read_id(document["suspect"]))
            return
        if "failing" in document:
            self._on_failing(reports.read_id(document["failing"]), Failure(document["reason"]))
            return
        report = reports.read_report(document["report"])
        if worker.life not in self._lives and len(self._lives) > 2 * _KEPT_LIVES:
            self._retire()
        life = self._lives.setdefault(worker.life, _Life())
        for backend_id, counted in report["backends"].items():
            known = life.backends.get(backend_id)
            if known is not None and counted["pool"] != known.get("pool", counted["pool"]):
                # The worker had forgotten a backend that came back.
                self._bury(_Life({backend_id: known}))
            life.backends[backend_id] = counted
            worker.in_flight[backend_id] = counted["in_flight"]
        if report["everything"]:
            for backend_id in life.backends.keys() - report["backends"].keys():
                self._bury(_Life({backend_id: life.backends.pop(backend_id)}))
                worker.in_flight.pop(backend_id, None)
        if len(life.backends) > reports.BACKENDS_LIMIT:
            raise ValueError(f"counts of {len(life.backends)} backends")
        life.refused = report["refused"]
        life.lost = report["lost"]
        worker.connections = report["connections"]
        worker.tasks = report["tasks"]
        worker.revision = report["revision"]
        worker.heard_s = time.monotonic()
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # The file.

    async def _save_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_INTERVAL_S)
            self._save()

    def _save(self) -> None:
        self._retire()
        document = {
            name: {"backends": life.backends, "refused": life.refused, "lost": life.lost}
            for name, life in self._lives.items()
        }
        try:
            write_atomically(self._paths.counters, json.dumps(document).encode(), 0o600)
        except OSError as error:
            _log.warning("the counters are not saved: %s", error)

    def _retire(self) -> None:
        """Add up the oldest lives, so that their number stays small."""
        present = {worker.life for worker in self._workers}
        gone = [name for name in self._lives if name not in present and name != _RETIRED]
        for name in gone[: max(0, len(gone) - _KEPT_LIVES)]:
            self._bury(self._lives.pop(name))

    def _bury(self, life: _Life) -> None:
        self._lives.setdefault(_RETIRED, _Life()).bury(life)


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": other["name"],
        "codes": [a + b for a, b in zip(one["codes"], other["codes"], strict=True)],
        "buckets": [a + b for a, b in zip(one["buckets"], other["buckets"], strict=True)],
        "duration_sum_s": one["duration_sum_s"] + other["duration_sum_s"],
        "retries": dict(Counter(one["retries"]) + Counter(other["retries"])),
    }


def _load(paths: Paths) -> dict[str, _Life]:
    try:
        document = json.loads(paths.counters.read_bytes())
        lives = {
            name: _Life(
                {one: reports.read_counts(counts) for one, counts in life["backends"].items()},
                reports.read_refused(life["refused"]),
                reports.read_lost(life),
            )
            for name, life in document.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("the saved counters cannot be read, they start at zero: %s", error)
        return {}
    return lives


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    peer = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)
