"""A stack on the local runtime: one supervisor, detached from the terminal that started it.

Everything of it lies in its state directory. The supervisor holds `supervisor.lock` as long as
it lives, and all its processes hold `alive.lock` together, so `down` knows when the last one
has gone, whatever ended the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lbctl import paths, tokens
from lbctl.certificates import load, source_of
from lbctl.config import FIXED, LEAVES, settings_of
from lbctl.core.text import printable
from lbctl.deploy import Address, FoundStack
from lbctl.deploy.listening import check_addresses, refuse_listened
from lbctl.deploy.secure import absolute, addresses_of
from lbctl.errors import DeadlineError, OperationError, UsageError
from lbctl.paths import write_atomically
from lbctl.runtime.local import ADMIN_PORT, PUBLIC_PORT
from lbctl.runtime.nginx import find_nginx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    from lbctl.config import Config
    from lbctl.deploy import Progress, StackOptions

_LOOPBACK = "127.0.0.1"
_START_S = 15.0
_END_MARGIN_S = 15.0
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

    async def find(self) -> FoundStack | None:
        settings = self._saved_settings()
        pid = self._supervisor()
        if settings is None and not pid:
            return None
        return self._found(settings or {}, pid)

    async def up(self, options: StackOptions, progress: Progress) -> FoundStack:
        config = _localised(options.config)
        if options.lbs > 1:
            raise UsageError("the local runtime has one lb: more of them need --runtime docker")
        wanted = settings_of(config)
        find_nginx()
        async with self._alone():
            self._refuse_what_is_not_ours()
            pid, before = self._supervisor(), self._saved_settings()
            if pid and before is not None and _same_sockets(wanted, before):
                return self._found(before, pid)  # the rest it can be told while it runs
            if not pid:
                await self._bury_stopped()
            addresses = addresses_of(config)
            check_addresses(addresses)
            _refuse_the_backends_ports(addresses)
            await self._refuse_listened(_new(addresses, before if pid else None))
            if (source := source_of(config.tls)) is not None:
                load(source)  # what cannot be served ends nothing
            if not pid:
                return await self._start(wanted)
            progress.note("other ports: starting the lb again, which breaks traffic")
            await self._end(pid)
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
            "the local runtime has no lb containers to replace: lbctl reload renews its workers"
        )

    async def down(self, progress: Progress) -> bool:
        if not self._is_ours():
            return False
        async with self._alone():
            self._refuse_what_is_not_ours()
            pid = self._supervisor()
            if pid:
                progress.note(f"stopping the lb (process {pid})")
            await self._end(pid)
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

    async def logs(self, follow: bool, tail: int) -> AsyncIterator[str]:
        followed = {"lb": _Tail(self._paths.log)}
        for name, log in self._backend_logs():
            followed[name] = _Tail(log)
        for name, file in followed.items():
            for line in file.lines()[-tail:] if tail else []:
                yield f"{name} | {line}"
        while follow and self._supervisor():
            await asyncio.sleep(_LOG_POLL_S)
            for name, log in self._backend_logs():
                followed.setdefault(name, _Tail(log))
            for name, file in followed.items():
                for line in file.lines():
                    yield f"{name} | {line}"

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
        def setting(name: str) -> Any:
            return settings.get(name, LEAVES[name].default)

        return FoundStack(
            runtime=self.runtime,
            project=self._project,
            lb=f"process {pid}" if pid else "no process",
            running=bool(pid),
            traffic=Address(setting("bind") or _LOOPBACK, setting("port")),
            admin=Address(setting("admin_bind"), setting("admin_port")),
            tls=_tls_address(setting),
            tls_files={
                name: setting(name) for name in ("tls_cert", "tls_key", "tls_dir") if setting(name)
            },
        )

    def _backend_logs(self) -> Iterator[tuple[str, Path]]:
        for log in sorted(self._paths.backends.glob("*/nginx.log")):
            yield log.parent.name, log

    def _supervisor(self) -> int:
        """Its pid, or 0 if none lives. Raises OperationError if that cannot be known."""
        try:
            with self._paths.lock.open("r") as file:
                return _holder(file)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise OperationError(f"cannot read {self._paths.lock}: {error.strerror}") from None

    def _listens(self, pid: int) -> bool:
        """Whether the supervisor of this pid has come so far."""
        return self._paths.lock.read_text() == f"{pid}\n"

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

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One command at a time brings this stack up or down."""
        base = self._paths.state.parent
        _make_base(base)
        deadline = time.monotonic() + _START_S + _END_MARGIN_S
        try:
            file = (base / f".{self._project}.lock").open("a")
        except OSError as error:
            raise OperationError(f"cannot use {base}: {error.strerror}") from None
        with file:
            while not _flocked(file):
                if time.monotonic() > deadline:
                    raise DeadlineError(
                        f"another lbctl up or down of project {self._project!r} is at work"
                    )
                await asyncio.sleep(_POLL_S)
            yield

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
            while not (self._supervisor() == process.pid and self._listens(process.pid)):
                if process.poll() is not None:
                    raise OperationError(f"the lb ended at once: {self._last_words()}")
                if time.monotonic() > deadline:
                    raise DeadlineError(f"the lb is not ready after {_START_S:g} s")
                await asyncio.sleep(_POLL_S)
        except BaseException:
            process.kill()
            process.wait()
            raise

    def _last_words(self) -> str:
        lines = _Tail(self._paths.log).lines() if self._paths.log.exists() else []
        if not lines:
            return "it said nothing"
        try:
            return str(json.loads(lines[-1])["message"])
        except (ValueError, KeyError, TypeError):
            return lines[-1]

    async def _end(self, pid: int) -> None:
        """Ask the supervisor to end, and wait until all its processes have. Those that have not
        after a while, because they hang, are killed. Raises DeadlineError if that fails too.
        """
        settings = self._saved_settings() or {}
        drain_s = float(settings.get("drain_timeout_s", LEAVES["drain_timeout_s"].default))
        if pid:
            _signal(pid, signal.SIGTERM)
        await self._bury_stopped()
        if await self._all_ended(drain_s + _END_MARGIN_S):
            return
        _kill(self._survivors())
        if not await self._all_ended(_END_MARGIN_S):
            pids = " ".join(map(str, self._survivors()))
            raise DeadlineError(f"these processes do not end: {pids}")

    async def _bury_stopped(self) -> None:
        """Processes that are stopped hear nothing, and hold ports: they would for ever."""
        stopped = [pid for pid in self._survivors() if _is_stopped(pid)]
        _kill(stopped)
        deadline = time.monotonic() + _END_MARGIN_S
        # Not until its files are gone from /proc: the kernel closes its sockets after that.
        while any(map(_lives, stopped)):
            if time.monotonic() > deadline:
                return  # what needs them gone says what is in its way
            await asyncio.sleep(_POLL_S)

    async def _all_ended(self, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while self._somebody_lives():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def _somebody_lives(self) -> bool:
        try:
            with self._paths.alive.open("r") as file:
                return not _flocked(file)
        except FileNotFoundError:
            return bool(self._supervisor())

    def _survivors(self) -> list[int]:
        """The processes that hold the file which all processes of this lb hold."""
        try:
            alive = self._paths.alive.stat()
        except OSError:
            return []
        return [
            int(process.name)
            for process in Path("/proc").iterdir()
            if process.name.isdigit() and _has_open(process, alive)
        ]


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


def _flocked(file: IO[str]) -> bool:
    """Whether this lock could be had; it is held until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> int:
    """Who holds the record lock on a file; asking does not take it (fcntl(2), F_GETLK)."""
    layout = "hhqqi"  # struct flock where off_t has 64 bits
    asked = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(layout, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    with contextlib.suppress(OSError):  # it has ended, or is another user's
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted):
                    return True
    return False


def _is_stopped(pid: int) -> bool:
    """By SIGSTOP, for one: it heeds no other signal until it goes on (proc(5), stat)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _lives(pid: int) -> bool:
    """Whether there is more left of a process than its exit status."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        _signal(pid, signal.SIGKILL)


def _make_base(base: Path) -> None:
    """Make the directory that stacks lie in, whatever the umask, and refuse one in which
    another user could change what lies there.
    """
    missing = [one for one in (base, *base.parents) if not one.exists()]
    try:
        for directory in reversed(missing):
            directory.mkdir()
            directory.chmod(0o755)
        facts = base.stat()
    except OSError as error:
        raise OperationError(f"cannot use {base}: {error.strerror}") from None
    open_to_others = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    sticky = facts.st_mode & stat.S_ISVTX  # as in /tmp, each user's own is safe from the others
    if facts.st_uid not in (0, os.geteuid()) or (open_to_others and not sticky):
        raise UsageError(
            f"{base} is open to other users: set LBCTL_STATE_DIR to a place that is not"
        )
    _refuse_closed_directories(base / "state")


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        if pid:
            os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise OperationError(f"process {pid} is another user's: run this as that user") from None


def _localised(config: Config) -> Config:
    """Backends on loopback need no traffic port beyond it, unless that is asked for."""
    config = dataclasses.replace(absolute(config), runtime="local", bind=config.bind or _LOOPBACK)
    source_of(config.tls)
    return config


def _same_sockets(wanted: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return all(wanted[name] == before.get(name, LEAVES[name].default) for name in FIXED)


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
    own = set()
    if before is not None:
        own = {(before["bind"], before["port"]), (before["admin_bind"], before["admin_port"])}
        own.add((before["bind"], before.get("tls_port")))
    return {flag: address for flag, address in addresses.items() if tuple(address) not in own}


def _refuse_the_backends_ports(addresses: Mapping[str, Address]) -> None:
    """Raises UsageError: all addresses include those of the backends."""
    for flag, address in addresses.items():
        if address.host in _EVERYWHERE and address.port in (PUBLIC_PORT, ADMIN_PORT):
            raise UsageError(
                f"{flag} {address.port}: on all addresses it would take the backends' own port "
                f"(127.x.y.z:{address.port}); choose another port, or one address"
            )
