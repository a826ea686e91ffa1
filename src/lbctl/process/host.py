"""The controller's end of the channel to the supervisor."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from lbctl.errors import OperationError
from lbctl.ports import Program
from lbctl.process import wire

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path
    from typing import Any

    from lbctl.model import Certificate, Process


class SupervisorClient:
    """Implements ports.ProgramHost; knows every process of this lb."""

    def __init__(self, lb: str = "") -> None:
        self._lb = lb
        self._news = asyncio.Event()  # set, and made anew, whenever a process came or went
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None]
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._told = asyncio.Event()
        self._watchers: set[asyncio.Queue[Sequence[Program]]] = set()
        self._programs: tuple[Program, ...] = ()
        self._processes: tuple[Process, ...] = ()
        self._certificates: tuple[Certificate, ...] = ()

    async def connect(self, end: socket.socket) -> None:
        """Returns when the supervisor has told what runs."""
        reader, self._writer = await asyncio.open_connection(sock=end, limit=wire.LINE_LIMIT_BYTES)
        self._reading = asyncio.create_task(self._read(reader))
        await self._told.wait()

    def processes(self) -> Sequence[Process]:
        return self._processes

    def certificates(self) -> Sequence[Certificate]:
        """Those that clients are shown."""
        return self._certificates

    async def process_changes(self) -> AsyncIterator[Sequence[Process]]:
        """The processes after each change, the present ones first; changes may be folded."""
        while True:
            news = self._news
            yield self._processes
            await news.wait()

    async def reload(self) -> None:
        """Swap the workers for new ones with the settings as they are now. Raises OperationError
        where all stayed as it was.
        """
        await self._ask({"reload": {}})

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
        self._processes = wire.processes_of(table["processes"], self._lb)
        self._certificates = wire.certificates_of(table.get("certificates", ()))
        news, self._news = self._news, asyncio.Event()
        news.set()
        programs = tuple(Program(**row) for row in table["programs"])
        self._told.set()
        if programs != self._programs:
            self._programs = programs
            for queue in self._watchers:
                queue.put_nowait(programs)
