"""Starting a proxy on its CPU, reading what it logs, and ending it."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.errors import MachineError, OperationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

_INSTALL = {"haproxy": "haproxy", "nginx": "nginx-light", "taskset": "util-linux", "wrk": "wrk"}
_START_S = 20.0
_END_S = 15.0
_POLL_S = 0.02
_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Cores:
    """Which CPU the proxy has for itself, and which the load generator and the backends share."""

    proxy: int
    load: tuple[int, ...]


def cores() -> Cores:
    """The last CPU this process may use is the proxy's. Raises MachineError if it is the only
    one.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise MachineError("one CPU is for the proxy, the load needs another: this machine has one")
    return Cores(usable[-1], tuple(usable[:-1]))


def pinned(cpus: Sequence[int], argv: Sequence[str]) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, cpus)), *argv]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proxy runs: a directory of its own, an address (two ports of it are free), the
    backends' addresses with ports, and where to look for programs first.
    """

    directory: Path
    address: str
    backends: Sequence[str]
    tools: Path
    cores: Cores
    port: int = 8080
    admin_port: int = 9900

    @property
    def listens(self) -> str:
        return f"{self.address}:{self.port}"

    def program(self, name: str) -> str:
        """Its path. Raises MachineError."""
        path = os.pathsep.join((str(self.tools), os.environ.get("PATH", ""), "/usr/sbin"))
        found = shutil.which(name, path=path)
        if found is None:
            package = _INSTALL.get(name)
            how = f"apt-get install {package}" if package else "make bench installs the peers"
            raise MachineError(f"{name} is not installed\n{how}")
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run a proxy: `files` (by name) lie in the place's directory, which is the working
    directory; `env` is added to next to nothing. `log_to_pipe`: its standard output is its
    access log.
    """

    argv: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    log_to_pipe: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that serves. `pid`: the root of its processes, of which those called `skip` do not
    count; 0 if there is none. `lines`: how many it has logged so far. `own`: where its backends
    are not those of all, what they have in place of a target, and its bytes.
    """

    listens: str
    pid: int = 0
    skip: Collection[str] = ()
    lines: Callable[[], int] | None = None
    own: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)


class Drain:
    """Reads a pipe, as an engine does with a container's output, and counts the lines."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        fcntl.fcntl(self._read, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.lines = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while data := os.read(self._read, _READ_BYTES):
            self.lines += data.count(b"\n")
        os.close(self._read)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory that others may pass through, and that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="lbctl-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


def lay_out(plan: Plan, place: Place) -> None:
    place.directory.mkdir(mode=0o711, exist_ok=True)
    for name, text in plan.files.items():
        (place.directory / name).write_text(text, encoding="utf-8")


def environment(plan: Plan, place: Place) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(place.directory),
        "LANG": "C.UTF-8",
        **plan.env,
    }


@contextlib.contextmanager
def serving(plan: Plan, place: Place) -> Iterator[Running]:
    """The proxy as a process of its own. Raises OperationError if it does not serve."""
    lay_out(plan, place)
    drain = Drain() if plan.log_to_pipe else None
    log = place.directory / "output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            pinned([place.cores.proxy], plan.argv),
            stdin=subprocess.DEVNULL,
            stdout=drain.write if drain else output,
            stderr=output,
            cwd=place.directory,
            env=environment(plan, place),
            start_new_session=True,
        )
    if drain:
        os.close(drain.write)
    try:
        if not wait_until(place.listens, process, _START_S):
            raise OperationError(f"it does not serve: {_last_words(log)}")
        lines = (lambda: drain.lines) if drain else None
        yield Running(place.listens, process.pid, lines=lines)
    finally:
        end(process)


def wait_until(listens: str, process: subprocess.Popen[bytes] | None, within_s: float) -> bool:
    """Whether a GET of /healthz is answered by 200 in time, and before `process` has ended.

    What somebody else serves there is not taken for it: that process would fail to listen.
    """
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            return False
        if _is_well(listens):
            return process is None or process.poll() is None
        time.sleep(_POLL_S)
    return False


def _is_well(listens: str) -> bool:
    connection = http.client.HTTPConnection(listens, timeout=1)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that does not heed it, and for what it left behind.

    `process` leads a group of its own.
    """
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def refuse_taken(addresses: Sequence[str]) -> None:
    """Raise OperationError if somebody listens at one of these: SO_REUSEPORT or a reused port
    would make another's answers look like the proxy's.
    """
    for address in addresses:
        host, _, port = address.rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            raise OperationError(f"{address} is in use: does another benchmark run?")


def end_properly() -> None:
    """From now on SIGTERM ends this process as Ctrl-C does (also where a shell has it ignored):
    not before what it started has ended.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
