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
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lbctl.model import CODE_CLASSES, DURATION_BUCKETS_S, BackendTraffic, TrafficTotals
from lbctl.paths import write_atomically
from lbctl.process import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lbctl.model import Snapshot
    from lbctl.paths import Paths

_log = logging.getLogger("lbctl.hub")

_SAVE_INTERVAL_S = 5.0
_HUNG_S = 1.5
"""A worker reports four times a second; one that was silent so long is not waited for."""
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

    def add(self, other: _Life) -> None:
        for backend_id, counted in other.backends.items():
            mine = self.backends.get(backend_id)
            self.backends[backend_id] = counted if mine is None else _sum(mine, counted)
        self.refused = dict(Counter(self.refused) + Counter(other.refused))

    def bury(self, other: _Life) -> None:
        """Add what nobody will report again."""
        for counted in other.backends.values():
            self.add(_Life({f"gone/{counted['name']}": counted}))
        self.add(_Life(refused=other.refused))
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


class Hub:
    """Implements ports.Routes, and the workers' half of ports.Traffic."""

    def __init__(
        self, paths: Paths, peer_uids: Collection[int], on_suspect: Callable[[str], None]
    ) -> None:
        self._paths = paths
        self._peer_uids = peer_uids
        self._on_suspect = on_suspect
        self._snapshot: Snapshot | None = None
        self._workers: set[_Worker] = set()
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._saving: asyncio.Task[None] | None = None
        self._lives: dict[str, _Life] = _load(paths)

    async def start(self, listening: socket.socket) -> None:
        """Serve on the socket that the supervisor keeps, across our own restarts."""
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listening, limit=wire.LINE_LIMIT_BYTES
        )
        self._saving = asyncio.create_task(self._save_now_and_then())

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._saving is not None:
            self._saving.cancel()
        for worker in self._workers:
            worker.writer.close()
        self._save()

    # ports.Routes

    def route(self, snapshot: Snapshot) -> None:
        """Workers of now get it over their socket, those to come find it in the file."""
        self._snapshot = snapshot
        document = wire.snapshot_document(snapshot)
        try:
            write_atomically(self._paths.snapshot, json.dumps(document).encode())
        except OSError as error:
            _log.warning("the snapshot is not saved, new workers will wait for it: %s", error)
        line = wire.encode({"snapshot": document})
        for worker in self._workers:
            worker.writer.write(line)

    async def unrouted(self, backend_id: str, deadline_s: float) -> int:
        def settled() -> bool:
            newest = self._snapshot.revision if self._snapshot is not None else 0
            hung = time.monotonic() - _HUNG_S  # it sends nobody a request either
            return self.in_flight(backend_id) == 0 and all(
                worker.revision == newest or worker.heard_s < hung for worker in self._workers
            )

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s), self._changed:
                await self._changed.wait_for(settled)
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
        )

    async def connected(self, count: int, deadline_s: float) -> None:
        """Wait until so many workers have told their counters, or the deadline passed."""

        def complete() -> bool:
            return sum(worker.revision >= 0 for worker in self._workers) >= count

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s), self._changed:
                await self._changed.wait_for(complete)

    # The socket.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _peer_uid(writer)
        if uid not in self._peer_uids:
            _log.warning("refused a connection of uid %s to the workers' socket", uid)
            writer.close()
            return
        worker: _Worker | None = None
        try:
            hello = wire.decode(await reader.readline())["hello"]
            worker = _Worker(hello["name"], hello["pid"], hello["life"], writer)
            self._workers.add(worker)
            if self._snapshot is not None:
                document = wire.snapshot_document(self._snapshot)
                writer.write(wire.encode({"snapshot": document}))
            while line := await reader.readline():
                await self._heard(worker, wire.decode(line))
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("a worker's connection broke: %r", error)
        finally:
            writer.close()
            if worker is not None:
                self._workers.discard(worker)
                await self._notify()

    async def _heard(self, worker: _Worker, document: dict[str, Any]) -> None:
        if "suspect" in document:
            self._on_suspect(str(document["suspect"]))
            return
        report = document["report"]
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
        life.refused = report["refused"]
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
            name: {"backends": life.backends, "refused": life.refused}
            for name, life in self._lives.items()
        }
        try:
            write_atomically(self._paths.counters, json.dumps(document).encode())
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
            name: _Life(dict(life["backends"]), dict(life["refused"]))
            for name, life in document.items()
        }
        for life in lives.values():
            for counted in life.backends.values():
                if (
                    len(counted["codes"]) != len(CODE_CLASSES)
                    or len(counted["buckets"]) != len(DURATION_BUCKETS_S) + 1
                ):
                    raise ValueError("other buckets")
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
