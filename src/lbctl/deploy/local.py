"""A stack on the local runtime: one supervisor, detached from the terminal that started it.

Everything of it lies in its state directory. The supervisor holds `supervisor.lock` as long as
it lives, and all its processes hold `alive.lock` together, so `down` knows when the last one
has gone, whatever ended the supervisor.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from lbctl import paths, tokens
from lbctl.certificates import load, source_of
from lbctl.config import FIXED, LEAVES, settings_of
from lbctl.core.text import printable
from lbctl.deploy import Address, FoundStack, LogLine
from lbctl.deploy.listening import check_addresses, refuse_listened
from lbctl.deploy.processes import END_MARGIN_S, Processes
from lbctl.deploy.secure import absolute, addresses_of
from lbctl.deploy.turns import make_base, opened, turn
from lbctl.errors import DeadlineError, OperationError, UsageError
from lbctl.paths import write_atomically
from lbctl.runtime.local import ADMIN_PORT, PUBLIC_PORT
from lbctl.runtime.nginx import find_nginx

if TYPE_CHECKING:
    import contextlib
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from lbctl.config import Config
    from lbctl.deploy import Progress, StackOptions

_LOOPBACK = "127.0.0.1"
_START_S = 15.0
_POLL_S = 0.02
_CLOSING_S = 2.0
_LOG_POLL_S = 0.2
_EVERYWHERE = ("0.0.0.0", "::")


class LocalStack:
    """Implements lbctl.deploy.Stack."""

    runtime = "local"

    def __init__(self, project: str) -> None:
        self._project = project
        self._paths = paths.local(project)
        self._processes = Processes(self._paths)

    async def find(self) -> FoundStack | None:
        settings = self._saved_settings()
        pid = self._processes.supervisor()
        if settings is None and not pid:
            return None
        return self._found(settings or {}, pid)

    async def settled(self, progress: Progress) -> FoundStack | None:
        async with self._turn(progress):
            return await self.find()

    async def up(self, options: StackOptions, progress: Progress) -> FoundStack:
        config = _localised(options.config)
        if options.lbs > 1:
            raise UsageError("the local runtime has one lb: more of them need --runtime docker")
        wanted = settings_of(config)
        find_nginx()
        async with self._turn(progress):
            self._refuse_what_is_not_ours()
            pid, before = self._processes.supervisor(), self._saved_settings()
            if pid and before is not None and _same_sockets(wanted, before):
                return self._found(before, pid)  # the rest it can be told while it runs
            if not pid:
                await self._processes.bury_stopped()
            addresses = addresses_of(config)
            check_addresses(addresses)
            _refuse_the_backends_ports(addresses)
            await self._refuse_listened(_new(addresses, before if pid else None))
            if (source := source_of(config.tls)) is not None:
                load(source)  # what cannot be served ends nothing
            if not pid:
                return await self._start(wanted)
            progress.note("other ports or files: starting the lb again, which breaks traffic")
            await self._end(pid, progress)
            try:
                return await self._start(wanted)
            except OperationError:
                if before is not None:
                    progress.note("that failed: starting it with the settings of before")
                    await self._start(before)
                raise

    async def upgrade(
        self,
        options: StackOptions,  # noqa: ARG002 - the protocol's
        progress: Progress,  # noqa: ARG002
    ) -> FoundStack:
        raise UsageError(
            "the local runtime has no lb containers to replace\n"
            "lbctl down and lbctl up start new code, and the history anew: docs/operations.md"
        )

    async def down(self, progress: Progress) -> bool:
        if not self._is_ours():
            return False
        async with self._turn(progress):
            self._refuse_what_is_not_ours()
            pid = self._processes.supervisor()
            if pid:
                progress.note(f"stopping the lb (process {pid})")
            await self._end(pid, progress)
            shutil.rmtree(self._paths.state)
        return True

    async def fetch(self, image: str, progress: Progress) -> None:  # noqa: ARG002
        raise UsageError(
            "--image: backends on the local runtime are processes, not made from images"
        )

    async def admin_token(self) -> str:
        try:
            return self._paths.admin_token.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            raise OperationError("the lb has not made its admin token yet") from None
        except OSError as error:
            raise OperationError(f"cannot read the admin token: {error.strerror}") from None

    async def logs(self, follow: bool, tail: int) -> AsyncIterator[LogLine]:
        followed = {"lb": _Tail(self._paths.log)}
        for name, log in self._backend_logs():
            followed[name] = _Tail(log)
        for name, file in followed.items():
            for line in file.lines()[-tail:] if tail else []:
                yield LogLine(name, line)
        while follow and self._processes.supervisor():
            await asyncio.sleep(_LOG_POLL_S)
            for name, log in self._backend_logs():
                followed.setdefault(name, _Tail(log))
            for name, file in followed.items():
                for line in file.lines():
                    yield LogLine(name, line)

    async def close(self) -> None:
        """Nothing is held open."""

    # Files

    def _saved_settings(self) -> dict[str, Any] | None:
        try:
            settings = json.loads(self._paths.serve.read_bytes())
        except (OSError, ValueError):
            return None
        return settings if isinstance(settings, dict) else None

    def _found(self, settings: Mapping[str, Any], pid: int) -> FoundStack:
        setting = partial(_setting, settings)
        return FoundStack(
            runtime=self.runtime,
            project=self._project,
            lb=f"process {pid}" if pid else "no process",
            running=bool(pid),
            traffic=_traffic_address(setting),
            admin=_admin_address(setting),
            tls=_tls_address(setting),
            tls_files={
                name: setting(name) for name in ("tls_cert", "tls_key", "tls_dir") if setting(name)
            },
        )

    def _backend_logs(self) -> Iterator[tuple[str, Path]]:
        for log in sorted(self._paths.backends.glob("*/nginx.log")):
            yield log.parent.name, log

    def _is_ours(self) -> bool:
        """Whether what lies in the state directory is a stack's."""
        return self._paths.lock.exists() or self._paths.serve.exists()

    def _refuse_what_is_not_ours(self) -> None:
        """A directory that somebody else made is neither filled nor removed."""
        state = self._paths.state
        if state.is_symlink() or (state.exists() and state.stat().st_uid != os.geteuid()):
            raise UsageError(f"{state} is another user's: set LBCTL_STATE_DIR to another place")
        if state.exists() and not self._is_ours() and any(state.iterdir()):
            raise UsageError(f"{state} is no stack's: set LBCTL_STATE_DIR to another place")

    async def _refuse_listened(self, addresses: dict[str, Address]) -> None:
        """Raises OperationError where somebody else listens. Processes of a stack that was here
        may be about to end, and are given a moment to close what they listened on.
        """
        deadline = time.monotonic() + (_CLOSING_S if self._is_ours() else 0.0)
        while True:
            try:
                return refuse_listened(addresses, by_engine=False)
            except OperationError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_POLL_S)

    def _turn(self, progress: Progress) -> contextlib.AbstractAsyncContextManager[None]:
        base = self._paths.state.parent
        make_base(base)
        _refuse_closed_directories(base / "state")
        lock = opened(base / f".{self._project}.lock")
        return turn(lock, self._project, progress, _START_S + END_MARGIN_S)

    # Processes

    async def _start(self, settings: dict[str, Any]) -> FoundStack:
        fresh = not self._paths.state.exists()
        try:
            tokens.ensure(self._paths)
            write_atomically(self._paths.serve, json.dumps(settings).encode(), 0o600)
            process = self._spawn(settings)
            await self._until_ready(process)
        except BaseException as error:
            if fresh:
                shutil.rmtree(self._paths.state, ignore_errors=True)
            if isinstance(error, OSError):
                reason = f"cannot use {self._paths.state}: {error.strerror}"
                raise OperationError(reason) from None
            raise
        return self._found(settings, process.pid)

    def _spawn(self, settings: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        """The supervisor, with every setting in its environment: it reads no file again."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("LBCTL_")
        }
        environment |= {LEAVES[name].variable: str(value) for name, value in settings.items()}
        environment["LBCTL_STATE_DIR"] = str(self._paths.state.parent)
        with self._paths.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "lbctl", "serve", "--runtime", "local"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment,
                start_new_session=True,
            )

    async def _until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it holds its lock: by then it listens."""
        deadline = time.monotonic() + _START_S
        try:
            while not self._processes.listens(process.pid):
                if process.poll() is not None:
                    raise OperationError(f"the lb ended at once: {self._last_words()}")
                if time.monotonic() > deadline:
                    raise DeadlineError(f"the lb is not ready after {_START_S:g} s")
                await asyncio.sleep(_POLL_S)
        except BaseException:
            process.kill()
            process.wait()
            raise

    async def _end(self, pid: int, progress: Progress) -> None:
        drain_s = float(_setting(self._saved_settings() or {}, "drain_timeout_s"))
        await self._processes.end(pid, drain_s, progress)

    def _last_words(self) -> str:
        lines = _Tail(self._paths.log).lines() if self._paths.log.exists() else []
        if not lines:
            return "it said nothing"
        try:
            return str(json.loads(lines[-1])["message"])
        except (ValueError, KeyError, TypeError):
            return lines[-1]


class _Tail:
    """The lines of a growing file, each once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def lines(self) -> list[str]:
        """The whole lines that have come since the last call."""
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0  # it was rotated
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [printable(line, 16_384) for line in whole.decode(errors="replace").splitlines()]


def _localised(config: Config) -> Config:
    """Backends on loopback need no traffic port beyond it, unless that is asked for."""
    config = dataclasses.replace(absolute(config), runtime="local", bind=config.bind or _LOOPBACK)
    source_of(config.tls)
    return config


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    """One of those saved, which an earlier lbctl may have had no name for."""
    return settings.get(name, LEAVES[name].default)


def _same_sockets(wanted: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return all(wanted[name] == _setting(before, name) for name in FIXED)


def _traffic_address(setting: Callable[[str], Any]) -> Address:
    return Address(setting("bind") or _LOOPBACK, setting("port"))


def _admin_address(setting: Callable[[str], Any]) -> Address:
    return Address(setting("admin_bind"), setting("admin_port"))


def _tls_address(setting: Callable[[str], Any]) -> Address | None:
    on = (setting("tls_cert") or setting("tls_dir")) and setting("tls_port")
    return Address(setting("bind") or _LOOPBACK, setting("tls_port")) if on else None


def _refuse_closed_directories(state: Path) -> None:
    """Started by root, workers and nginx run as others, and must get to their files."""
    if os.geteuid() != 0:
        return
    for directory in state.parents:
        if directory.exists() and not directory.stat().st_mode & 0o001:
            raise UsageError(
                f"{directory} lets nobody but its owner through, and the backends do not run as "
                "root: set LBCTL_STATE_DIR to another place"
            )


def _new(addresses: Mapping[str, Address], before: Mapping[str, Any] | None) -> dict[str, Address]:
    """Those that the running lb does not listen on itself."""
    own: set[Address | None] = set()
    if before is not None:
        setting = partial(_setting, before)
        own = {_traffic_address(setting), _admin_address(setting), _tls_address(setting)}
    return {flag: address for flag, address in addresses.items() if address not in own}


def _refuse_the_backends_ports(addresses: Mapping[str, Address]) -> None:
    """Raises UsageError: all addresses include those of the backends."""
    for flag, address in addresses.items():
        if address.host in _EVERYWHERE and address.port in (PUBLIC_PORT, ADMIN_PORT):
            raise UsageError(
                f"{flag} {address.port}: on all addresses it would take the backends' own port "
                f"(127.x.y.z:{address.port}); choose another port, or one address"
            )
