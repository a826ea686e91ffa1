"""Unix sockets, each put in its place in one step."""

from __future__ import annotations

import contextlib
import secrets
import socket
from typing import TYPE_CHECKING

from lbctl.errors import OperationError

if TYPE_CHECKING:
    from pathlib import Path

Place = tuple[int, int]
"""Device and inode of a socket, which no other has as long as it is bound."""


def listen(path: Path, mode: int, backlog: int) -> tuple[socket.socket, Place]:
    """A socket of this name, in one step instead of the one that was there. Raises
    OperationError.
    """
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_name(f".{secrets.token_hex(4)}")
    try:
        one.bind(str(fresh))
        fresh.chmod(mode)
        one.listen(backlog)
        place = _place_of(fresh)
        fresh.replace(path)
    except OSError as error:
        one.close()
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise OperationError(f"cannot listen on {path}: {error.strerror or error}") from None
    one.setblocking(False)
    return one, place


def is_at(path: Path, place: Place) -> bool:
    """Whether what has this name now is that socket."""
    try:
        return _place_of(path) == place
    except OSError:
        return False


def _place_of(path: Path) -> Place:
    facts = path.stat()
    return facts.st_dev, facts.st_ino
