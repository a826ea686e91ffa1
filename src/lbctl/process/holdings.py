"""What a supervisor holds as long as it lives: two locks, its log, what clients connect to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
from dataclasses import dataclass, field
from functools import partial
from typing import IO, TYPE_CHECKING

from lbctl.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lbctl.config import Config
    from lbctl.paths import Paths

_BACKLOG = 4096
_LOG_LIMIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sockets:
    """What clients reach. They outlive every other process of the lb."""

    traffic: list[socket.socket]
    admin: socket.socket
    shared: bool = False
    tls: list[socket.socket] = field(default_factory=list)

    @property
    def clients(self) -> list[socket.socket]:
        """All that the workers accept from."""
        return [*self.traffic, *self.tls]

    def leave_admin(self) -> None:
        """The controller has ended. Another lb's may lead now, and then has to have all who
        come; else the next controller takes those who wait.
        """
        listens = self.admin.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        # A socket that does not listen would be marked by it for good: Linux gives the mark on to
        # every connection that it accepts later.
        if self.shared and listens:
            self.admin.shutdown(socket.SHUT_RDWR)


def lock(paths: Paths) -> IO[str]:
    """Held as long as this process lives. Raises OperationError if another one holds it, or the
    directory cannot be used.
    """
    with _usable(paths.state):
        paths.state.mkdir(mode=0o711, parents=True, exist_ok=True)
        file = _private(paths.lock)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise OperationError(f"an lb already runs on {paths.state}") from None
    with _usable(paths.state):
        file.truncate(0)
    return file


@contextlib.contextmanager
def _usable(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a disk that is full, or only to be read
        raise OperationError(f"cannot use {path}: {error.strerror}") from None


def _private(path: Path) -> IO[str]:
    """Nobody else may lock what others wait for."""
    return open(path, "a+", opener=partial(os.open, mode=0o600))


def tell_pid(held: IO[str]) -> None:
    """Only now that it listens: whoever reads it may go on. Raises OperationError."""
    with _usable(held.name):
        os.write(held.fileno(), b"%d\n" % os.getpid())


def share_alive(paths: Paths) -> IO[str]:
    """A lock that all children share: it is free when the last of them is gone. Raises
    OperationError.
    """
    with _usable(paths.state):
        file = _private(paths.alive)
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


def listen(config: Config, *, shared: bool) -> Sockets:
    """`shared`: other lbs listen on the same addresses (SO_REUSEPORT). Then this one begins when
    its first worker does, so that nobody waits on an lb that only starts, and the admin port is
    the leading controller's to listen on. Else both listen from now on: nobody is ever refused.
    """
    clients = [(config.bind, config.port)]
    if config.tls.on:
        clients.append((config.bind, config.tls.tls_port))
    with contextlib.ExitStack() as undo:
        traffic, *tls = (
            undo.enter_context(_bound(address, port, shared=shared)) for address, port in clients
        )
        # Beside sockets that do not listen, as while nobody leads, SO_REUSEADDR would let another
        # user listen here.
        admin = undo.enter_context(
            _bound(config.admin_bind, config.admin_port, shared=shared, reuse=not shared)
        )
        undo.pop_all()
    return Sockets([traffic], admin, shared, tls)


def keep_ready(paths: Paths, ready: bool) -> None:
    """Have the file that says so, its time being now, or not."""
    with contextlib.suppress(OSError):
        if ready:
            paths.ready.touch(mode=0o644)
        else:
            paths.ready.unlink(missing_ok=True)


def _bound(address: str, port: int, *, shared: bool, reuse: bool = True) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
    if shared:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        one.bind((address, port))
        if not shared:
            one.listen(_BACKLOG)  # the kernel may refuse only now
    except OSError as error:
        one.close()
        shown = f"{address or '0.0.0.0'}:{port}"
        raise OperationError(f"cannot listen on {shown}: {error.strerror}") from None
    one.setblocking(False)
    return one


def rotate(log: Path) -> None:
    """Keep a log that all processes append to from filling the disk: past the limit it moves
    to `.1`, whose predecessor goes. (In a container the engine's log driver does this.)

    What is written between the copy and the cut is lost; a failure is left for the next time.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            shutil.copyfile(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)
