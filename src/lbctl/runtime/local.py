"""Backends as nginx processes of this machine, each with an address of its own in 127.0.0.0/8.

Same configuration template, same admin endpoint, same files as in a container. The supervisor
runs the processes and restarts them, as an engine would; what a backend is stands in its
directory, so a new controller, or a new supervisor, finds it again.

    backends/NAME/backend.json   who it is, and of which revision
    backends/NAME/nginx.conf
    backends/NAME/nginx.log      what it says
    backends/NAME/www, tmp       the only places it writes to
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
import os
import secrets
import shutil
import signal
import socket
import zlib
from typing import TYPE_CHECKING

from lbctl.assets import NginxSite, initial_files, render_nginx
from lbctl.core.text import printable
from lbctl.errors import EngineError, LbctlError
from lbctl.model import Backend, Instance, Phase
from lbctl.paths import PROGRAM_UID, write_atomically
from lbctl.ports import Change
from lbctl.runtime.nginx import find_nginx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from lbctl.model import Release
    from lbctl.paths import Paths
    from lbctl.ports import ProgramHost
    from lbctl.runtime.nginx import Nginx

PUBLIC_PORT = 8080
ADMIN_PORT = 9000
_LAST_ADDRESS = 0xFFFE  # of the 16 bits that a project has
_LOG_TAIL_BYTES = 65_536  # in which the last lines of a log are looked for
_LINE_LIMIT = 400  # characters of a line that is quoted


class LocalRuntime:
    """Implements ports.Runtime."""

    name = "local"

    def __init__(self, project: str, paths: Paths, host: ProgramHost) -> None:
        self._project = project
        self._paths = paths
        self._host = host
        saved = list(_saved(paths.backends))
        self._backends = {backend.name: backend for backend, _ in saved}
        self._revisions = {backend.id: revision for backend, revision in saved}
        self._starting: set[str] = set()  # ids: made, not yet asked of the host
        self._stopping: set[str] = set()  # ids: on their way out, process gone or not

    async def recover(self) -> None:
        """Run the backends whose directories are there and whose processes are not: those of
        a supervisor that was killed.
        """
        running = {program.name for program in self._host.programs()}
        missing = [backend for backend in self._backends.values() if backend.name not in running]
        await self._run(missing)

    async def start(self, count: int, release: Release) -> list[str]:
        names, addresses = self._free_names(), self._free_addresses()
        self._paths.backends.mkdir(mode=0o711, parents=True, exist_ok=True)
        made: list[Backend] = []
        try:
            for _ in range(count):
                backend = Backend(secrets.token_hex(6), next(names), next(addresses))
                made.append(backend)
                self._backends[backend.name] = backend
                self._revisions[backend.id] = release.revision
                self._starting.add(backend.id)
            for backend in made:
                self._lay_out(backend)
                await asyncio.sleep(0)  # hundreds take longer than a heartbeat may
            await self._run(made)
        except (OSError, LbctlError, StopIteration) as error:
            for backend in made:
                await self.stop(backend.id, 0)
            raise EngineError(f"cannot start a backend: {error}") from None
        finally:
            self._starting.difference_update(backend.id for backend in made)
        return [backend.id for backend in made]

    async def stop(self, instance_id: str, grace_s: float) -> None:
        backend = self._of(instance_id)
        if backend is None:
            return
        self._stopping.add(instance_id)
        try:
            await self._host.stop(backend.name, signal.SIGQUIT, grace_s)
            shutil.rmtree(self._directory(backend), ignore_errors=True)
            self._backends.pop(backend.name, None)
            self._revisions.pop(instance_id, None)
        finally:
            self._stopping.discard(instance_id)

    async def list(self) -> list[Instance]:
        running = {program.name for program in self._host.programs() if program.pid}
        return [
            Instance(
                backend.id,
                backend.name,
                self._phase(backend, running),
                backend,
                revision=self._revisions[backend.id],
            )
            for backend in self._backends.values()
            if backend.id not in self._starting
        ]

    def _of(self, instance_id: str) -> Backend | None:
        return next((one for one in self._backends.values() if one.id == instance_id), None)

    def _phase(self, backend: Backend, running: set[str]) -> Phase:
        if backend.id in self._stopping:
            return Phase.STOPPING
        return Phase.RUNNING if backend.name in running else Phase.EXITED

    async def last_lines(self, instance_id: str, count: int) -> Sequence[str]:
        backend = self._of(instance_id)
        if backend is None:
            return []
        try:
            with (self._directory(backend) / "nginx.log").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError as error:
            raise EngineError(f"cannot read the log of {backend.name}: {error.strerror}") from None
        return [printable(line, _LINE_LIMIT) for line in text.splitlines()[-count:]]

    async def watch(self) -> AsyncIterator[Change]:
        known: dict[str, int] | None = None
        async for programs in self._host.changes():
            pids = {program.name: program.pid for program in programs}
            if known is None:
                yield Change("subscribed")
            else:
                for change in self._changes(known, pids):
                    yield change
            known = pids

    def _changes(self, before: dict[str, int], after: dict[str, int]) -> Iterator[Change]:
        """A process that was replaced between two looks died and started, in this order."""
        for name, backend in list(self._backends.items()):
            old, new = before.get(name, 0), after.get(name, 0)
            if old and old != new:
                yield Change("die", backend.id)
            if new and old != new:
                yield Change("start", backend.id)
        yield Change("programs")

    async def close(self) -> None:
        """Nothing is held open."""

    def _directory(self, backend: Backend) -> Path:
        return self._paths.backends / backend.name

    def _lay_out(self, backend: Backend) -> None:
        directory = self._directory(backend)
        log = directory / "nginx.log"
        site = NginxSite(
            public=f"{backend.ip}:{backend.port}",
            admin=f"{backend.ip}:{backend.admin_port}",
            directory=directory,
            tokens=self._paths.tokens,
            error_log=log,
        )
        shutil.rmtree(directory, ignore_errors=True)
        written = [directory, directory / "www", directory / "tmp", log]
        for path in written[:3]:
            path.mkdir()
        for name, data in initial_files().items():
            written.append(directory / "www" / name)
            written[-1].write_bytes(data)
        log.touch()
        (directory / "nginx.conf").write_text(render_nginx(site), encoding="utf-8")
        document = json.dumps(
            {"backend": dataclasses.asdict(backend), "revision": self._revisions[backend.id]}
        )
        write_atomically(directory / "backend.json", document.encode())
        if os.geteuid() == 0:
            for path in written:
                os.chown(path, PROGRAM_UID, PROGRAM_UID)

    async def _run(self, backends: Sequence[Backend]) -> None:
        if backends:
            nginx = find_nginx()
            await asyncio.gather(*(self._run_one(backend, nginx) for backend in backends))

    async def _run_one(self, backend: Backend, nginx: Nginx) -> None:
        directory = self._directory(backend)
        argv = [nginx.program, "-p", str(directory), "-c", str(directory / "nginx.conf")]
        if _has_early_log(nginx):
            argv += ["-e", str(directory / "nginx.log")]
        await self._host.run(backend.name, argv, directory / "nginx.log")

    def _free_names(self) -> Iterator[str]:
        number = 0
        while True:
            number += 1
            name = f"{self._project}-backend-{number}"
            if name not in self._backends:
                yield name

    def _free_addresses(self) -> Iterator[str]:
        """Addresses that nobody listens on, lowest first. Projects begin in different blocks."""
        first = first_address(self._project)
        taken = {backend.ip for backend in self._backends.values()}
        for offset in range(_LAST_ADDRESS - 1):
            address = str(first + offset)
            if address not in taken and _is_free(address):
                yield address
        raise EngineError(
            f"no address from {first} on has its ports {PUBLIC_PORT} and {ADMIN_PORT} free; "
            "something may listen on all addresses"
        )


def _has_early_log(nginx: Nginx) -> bool:
    """`-e` came with 1.19.5; without it nginx first complains about its compiled-in log."""
    numbers = [int(part) for part in nginx.version.split(".") if part.isdigit()]
    return numbers >= [1, 19, 5]


def first_address(project: str) -> ipaddress.IPv4Address:
    """Where a project's addresses begin."""
    block = 1 + zlib.crc32(project.encode()) % 254
    return ipaddress.IPv4Address(f"127.{block}.0.1")


def _is_free(address: str) -> bool:
    for port in (PUBLIC_PORT, ADMIN_PORT):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((address, port))
            except OSError:
                return False
    return True


def _saved(directory: Path) -> Iterator[tuple[Backend, int]]:
    """Each backend with its revision."""
    for file in sorted(directory.glob("*/backend.json")):
        try:
            document = json.loads(file.read_bytes())
            yield Backend(**document["backend"]), int(document["revision"])
        except (OSError, ValueError, TypeError, KeyError):
            shutil.rmtree(file.parent, ignore_errors=True)  # half made when its maker died
