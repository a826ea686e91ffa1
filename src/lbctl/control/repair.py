"""A damaged database gives way to one with what can be read of it, whenever the process is killed.

    history.db.new                the new one while it is written: of no use to anybody
    history.db.repaired-<time>    complete and on the disk: all that is left is to change places
    history.db.damaged-<time>     the damaged one, as it was

The damaged file keeps its name until the new one is complete. So where there is no room for a
second one nothing is given up, and it is tried again.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from lbctl.control.database import FILE, INSERT, SCHEMA, connect, row_of, transaction
from lbctl.control.partitions import sync_directory
from lbctl.core.history import from_ms

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lbctl.core.history import Record

_READY = f"{FILE}.repaired-"


def build(directory: Path, records: Iterable[Record], at_ms: int) -> None:
    """Put a file of these beside the damaged one. Raises OSError and sqlite3.Error."""
    path = directory / f"{FILE}.new"
    _remove(path)
    try:
        with closing(connect(path)) as db:
            db.executescript(SCHEMA)
            with transaction(db):
                db.executemany(INSERT, map(row_of, records))
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(directory / f"{_READY}{from_ms(at_ms):%Y%m%dT%H%M%SZ}")
    except BaseException:
        _remove(path)
        raise
    sync_directory(directory)


def finish(directory: Path) -> str:
    """Let the one that was built, if any, take its place. Returns the name under which the damaged
    one is from then on, or "". What a killed process was still writing goes. Raises OSError.
    """
    _remove(directory / f"{FILE}.new")
    ready = min(directory.glob(f"{_READY}*"), default=None)
    if ready is None:
        return ""
    aside = f"{FILE}.damaged-{ready.name.removeprefix(_READY)}"
    # SQLite would take what the old one's log has for the new one's.
    for suffix in ("", "-wal", "-shm"):
        part = directory / f"{FILE}{suffix}"
        if part.exists():
            part.replace(directory / f"{aside}{suffix}")
    ready.replace(directory / FILE)
    sync_directory(directory)
    return aside


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
