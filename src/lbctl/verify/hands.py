"""Hands for each runtime: signals to processes of this machine, or the engine's own means."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from lbctl.core.text import printable
from lbctl.errors import EngineError, EngineUnavailableError, OperationError
from lbctl.model import LABEL_LB
from lbctl.runtime.containers import Names
from lbctl.runtime.transport import EngineRefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from lbctl.paths import Paths
    from lbctl.runtime.containers import Json
    from lbctl.runtime.engine import Engine
    from lbctl.verify.view import Process, Seat

_STOP_GRACE_S = 10.0  # docker stop's own
_RESTART_WITHIN_S = 120.0
_ASK_INTERVAL_S = 0.1


class LocalHands:
    """For a stack of plain processes. Implements ports.Hands."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    async def kill_backend(self, backend: Seat) -> None:
        _signal(self._nginx(backend), signal.SIGKILL)

    def cannot_stop(self) -> str:
        return "a local backend is a child of the lb: nobody else stops it"

    async def stop_backend(self, backend: Seat) -> None:
        raise OperationError(f"{backend.name}: {self.cannot_stop()}")

    async def revive_backend(self, backend: Seat) -> None:
        """The supervisor does that."""

    async def pause_backend(self, backend: Seat) -> None:
        # Its workers are in its group, and would serve on without it.
        _signal(-self._nginx(backend), signal.SIGSTOP)

    async def resume_backend(self, backend: Seat) -> None:
        with contextlib.suppress(OperationError):  # it is gone
            _signal(-self._nginx(backend), signal.SIGCONT)

    async def kill_process(self, process: Process) -> None:
        _signal(process.pid, signal.SIGKILL)

    async def kill_lb(self, lb: str) -> None:
        raise OperationError(f"lb {lb!r} cannot be killed alone: on local there is one")

    async def revive_lb(self, lb: str) -> None:
        """There is one lb, which nobody kills."""

    def cannot_upgrade(self) -> str:
        return "on local there is no container to replace"

    async def upgrade(self) -> None:
        raise OperationError(self.cannot_upgrade())

    async def has_guard(self) -> bool:
        return False

    async def kill_guard(self) -> None:
        raise OperationError("there is no guard on local")

    async def revive_guard(self) -> None:
        """There is none."""

    async def cannot_restart_engine(self) -> str:
        return "there is no engine on local"

    async def restart_engine(self) -> None:
        raise OperationError(await self.cannot_restart_engine())

    def _nginx(self, backend: Seat) -> int:
        """Pid of a backend's master process, which is that of its group too."""
        file = self._paths.backends / backend.name / "nginx.pid"
        try:
            return int(file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            raise OperationError(f"{backend.name} has no process") from None


def _signal(pid: int, number: signal.Signals) -> None:
    """`pid` as os.kill takes it: below 0 it is a group."""
    try:
        os.kill(pid, number)
    except OSError as error:
        raise OperationError(f"{number.name} to process {abs(pid)}: {error.strerror}") from None


class DockerHands:
    """For a stack of containers. Implements ports.Hands. The engine is the caller's, and so is
    `upgrade`, which is None where somebody else than lbctl has made the lbs. `restart` is the
    command that restarts the engine; empty where nobody has named one.
    """

    def __init__(
        self,
        engine: Engine,
        project: str,
        upgrade: Callable[[], Awaitable[object]] | None,
        restart: Sequence[str] = (),
    ) -> None:
        self._engine = engine
        self._names = Names(project)
        self._upgrade = upgrade
        self._restart = restart

    async def kill_backend(self, backend: Seat) -> None:
        await self._engine.kill(backend.id)

    def cannot_stop(self) -> str:
        return ""

    async def stop_backend(self, backend: Seat) -> None:
        await self._engine.stop(backend.id, _STOP_GRACE_S)

    async def revive_backend(self, backend: Seat) -> None:
        with _unless_gone():
            await self._engine.start(backend.id)

    async def pause_backend(self, backend: Seat) -> None:
        await self._engine.pause(backend.id)

    async def resume_backend(self, backend: Seat) -> None:
        with _unless_gone():
            await self._engine.unpause(backend.id)

    async def kill_process(self, process: Process) -> None:
        lb = await self._lb(process.lb)
        if await self._engine.execute(lb["Id"], ["kill", "-9", str(process.pid)]):
            raise OperationError(f"{process.role} {process.pid} could not be killed")

    async def kill_lb(self, lb: str) -> None:
        await self._engine.kill((await self._lb(lb))["Id"])

    async def revive_lb(self, lb: str) -> None:
        await self._engine.start((await self._lb(lb))["Id"])

    def cannot_upgrade(self) -> str:
        return "" if self._upgrade else "lbctl has not made these lbs"

    async def upgrade(self) -> None:
        if self._upgrade is None:
            raise OperationError(self.cannot_upgrade())
        await self._upgrade()

    async def has_guard(self) -> bool:
        return bool(await self._guards())

    async def kill_guard(self) -> None:
        for guard in await self._guards():
            await self._engine.kill(guard["Id"])

    async def revive_guard(self) -> None:
        for guard in await self._guards():
            await self._engine.start(guard["Id"])

    async def cannot_restart_engine(self) -> str:
        if not self._restart:
            return "--restart-engine names no command for it"
        if not (await self._engine.info()).get("LiveRestoreEnabled"):
            return "the engine would end all containers: it is set up without live-restore"
        return ""

    async def restart_engine(self) -> None:
        end_s = time.monotonic() + _RESTART_WITHIN_S
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + _RESTART_WITHIN_S):
                await _run(self._restart)
        except TimeoutError:
            raise OperationError(
                f"{_text(self._restart)}: not done after {_RESTART_WITHIN_S:g} s"
            ) from None
        while True:
            try:
                await self._engine.about()
            except (EngineError, EngineUnavailableError):
                if time.monotonic() > end_s:
                    raise
            else:
                return
            await asyncio.sleep(_ASK_INTERVAL_S)

    async def _lb(self, lb: str) -> Json:
        """The container of an lb."""
        for container in await self._engine.containers(self._names.filters("lb")):
            if container["Labels"].get(LABEL_LB) == lb:
                return container
        raise OperationError(f"no container of this project is lb {lb!r}")

    async def _guards(self) -> list[Json]:
        return await self._engine.containers(self._names.filters("guard"))


async def _run(command: Sequence[str]) -> None:
    """Raises OperationError with the last line of what it said, where it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise OperationError(f"{_text(command)}: {error.strerror}") from None
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise OperationError(
            f"{_text(command)}: exit status {process.returncode}: {printable(last)}"
        )


def _text(command: Sequence[str]) -> str:
    return printable(" ".join(command))


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    """To one that was removed, is being removed or is in that state already, nothing is done."""
    try:
        yield
    except EngineRefusedError as error:
        if error.status not in (404, 409):
            raise
