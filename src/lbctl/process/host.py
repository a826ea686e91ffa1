"""The controller's end of the channel to the supervisor."""

from __future__ import annotations

import asyncio
import itertools
from datetime import datetime
from typing import TYPE_CHECKING

from lbctl.errors import OperationError
from lbctl.model import Process
from lbctl.ports import Program
from lbctl.process import wire

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path
    from typing import Any


class SupervisorClient:
    """Implements ports.ProgramHost; knows every process of the lb."""

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None]
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._told = asyncio.Event()
        self._watchers: set[asyncio.Queue[Sequence[Program]]] = set()
        self._programs: tuple[Program, ...] = ()
        self._processes: tuple[Process, ...] = ()

    async def connect(self, end: socket.socket) -> None:
        """Returns when the supervisor has told what runs."""
        reader, self._writer = await asyncio.open_connection(sock=end, limit=wire.LINE_LIMIT_BYTES)
        self._reading = asyncio.create_task(self._read(reader))
        await self._told.wait()

    def processes(self) -> Sequence[Process]:
        return self._processes

    def programs(self) -> Sequence[Program]:
        return self._programs

    async def changes(self) -> AsyncIterator[Sequence[Program]]:
        queue: asyncio.Queue[Sequence[Program]] = asyncio.Queue()
        queue.put_nowait(self._programs)
        self._watchers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    async def run(self, name: str, argv: Sequence[str], log: Path) -> None:
        await self._ask({"run": {"name": name, "argv": list(argv), "log": str(log)}})

    async def stop(self, name: str, signal_number: int, grace_s: float) -> None:
        stop = {"name": name, "signal": signal_number, "grace_s": grace_s}
        await self._ask({"stop": stop})

    async def _ask(self, wish: dict[str, Any]) -> None:
        number = next(self._numbers)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._writer.write(wire.encode({"id": number, **wish}))
        try:
            error = await answer
        finally:
            del self._waiting[number]
        if error:
            raise OperationError(error)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            document = wire.decode(line)
            if "id" in document:
                waiting = self._waiting.get(document["id"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(document["error"])
            else:
                self._heard(document)
        for waiting in self._waiting.values():
            waiting.set_result("the supervisor is gone")

    def _heard(self, table: dict[str, Any]) -> None:
        self._processes = tuple(
            Process(
                row["role"],
                row["name"],
                row["pid"],
                row["restarts"],
                datetime.fromisoformat(row["started_at"]),
            )
            for row in table["processes"]
        )
        programs = tuple(Program(**row) for row in table["programs"])
        self._told.set()
        if programs != self._programs:
            self._programs = programs
            for queue in self._watchers:
                queue.put_nowait(programs)
