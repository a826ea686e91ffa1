"""lbctl with one worker and all defaults, for the scripts that look at what its memory does."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.compare import backends, balancer
from benchmarks.compare.processes import Place, cores, end_properly, refuse_taken, scratch, serving
from benchmarks.compare.procfs import read_resident_bytes
from lbctl.errors import LbctlError, MachineError, OperationError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

_ADDRESS = "127.77.3.1"
_TIMEOUT_S = 10.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Alone:
    """`address` and `port` take traffic; `worker` is the pid of the one that proxies it."""

    address: str
    port: int
    admin_port: int
    worker: int

    def resident_bytes(self) -> int:
        """Of the worker. Raises OperationError if it has died."""
        try:
            return read_resident_bytes(self.worker)
        except (OSError, ValueError):
            raise OperationError(f"the worker (process {self.worker}) has died") from None

    def clients(self) -> int:
        """Connections of clients, as the metrics have them: at most a report's interval old."""
        text = _get(self.address, self.admin_port, "/metrics").decode()
        found = re.search(r'^lbctl_connections\{side="downstream"\} (\S+)$', text, re.MULTILINE)
        return int(float(found[1])) if found else 0


@contextlib.contextmanager
def running(files: dict[str, bytes], python: str = sys.executable) -> Iterator[Alone]:
    """As long as the block runs, in front of nginx processes with these files (by target)."""
    usable = cores()
    with (
        scratch() as directory,
        backends.running(directory / "origins", usable.load, files) as origins,
    ):
        place = Place(directory / "lbctl", _ADDRESS, origins, Path(), usable)
        refuse_taken([place.listens])
        with serving(balancer.given(place, python), place):
            status = json.loads(_get(place.address, place.admin_port, "/api/v1/status"))
            (worker,) = (one["pid"] for one in status["processes"] if one["role"] == "worker")
            yield Alone(place.address, place.port, place.admin_port, worker)


def _get(address: str, port: int, target: str) -> bytes:
    connection = http.client.HTTPConnection(address, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", target)
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException) as error:
        raise OperationError(f"{address}:{port}{target}: {error!r}") from None
    finally:
        connection.close()


def allow_files(count: int) -> None:
    """Have so many files open at a time. Raises MachineError."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < count:
        raise MachineError(f"{count} open files are needed, and {most} are allowed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def ask(client: socket.socket, target: str) -> None:
    """One request, and its whole answer, which ends with a line. Raises OperationError."""
    received = b""
    try:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        while not received.partition(b"\r\n\r\n")[2].endswith(b"\n"):
            data = client.recv(65_536)
            if not data:
                raise OperationError(f"closed after {received[:60]!r}")
            received += data
    except OSError as error:
        raise OperationError(f"no answer: {error}") from None
    if not received.startswith(b"HTTP/1.1 200 "):
        raise OperationError(f"answered {received[:60]!r}")


def ended(script: Callable[[], int]) -> int:
    """Run a script; its errors become a line and an exit status."""
    end_properly()
    try:
        return script()
    except LbctlError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
