"""What a supervisor holds as long as it lives: two locks, its log, what clients connect to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from lbctl.errors import OperationError

if TYPE_CHECKING:
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
    workers: socket.socket


def lock(paths: Paths) -> IO[str]:
    """Held as long as this process lives. Raises OperationError if another one holds it."""
    try:
        paths.state.mkdir(mode=0o711, parents=True, exist_ok=True)
        file = _private(paths.lock)
    except OSError as error:
        raise OperationError(f"cannot use {paths.state}: {error.strerror}") from None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise OperationError(f"an lb already runs on {paths.state}") from None
    file.truncate(0)
    return file


def _private(path: Path) -> IO[str]:
    """Nobody else may lock what others wait for."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+")


def tell_pid(held: IO[str]) -> None:
    """Only now that it listens: whoever reads it may go on."""
    held.write(f"{os.getpid()}\n")
    held.flush()


def share_alive(paths: Paths) -> IO[str]:
    """A lock that all children share: it is free when the last of them is gone."""
    file = _private(paths.alive)
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def listen(config: Config, paths: Paths) -> Sockets:
    traffic = _listen_tcp(config.bind, config.port)
    admin = _listen_tcp(config.admin_bind, config.admin_port)
    workers = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        paths.workers_socket.unlink(missing_ok=True)
        workers.bind(str(paths.workers_socket))
        paths.workers_socket.chmod(0o666)  # who connects is checked by uid
        workers.listen(128)
    except OSError as error:
        raise OperationError(f"cannot listen on {paths.workers_socket}: {error}") from None
    return Sockets([traffic], admin, workers)


def _listen_tcp(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((address, port))
        one.listen(_BACKLOG)
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
