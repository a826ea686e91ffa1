"""The table of history.db, and how it is asked.

Whatever comes from outside is a parameter, never part of a statement.
"""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from lbctl.control.snapshots import Key
from lbctl.core.history import Record, check

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "history.db"
VERSION = 1
_BUSY_S = 5.0
_COLUMNS = "seq, at_ms, kind, subject, text, generation, data"
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    text TEXT NOT NULL,
    generation INTEGER,
    whole INTEGER NOT NULL,
    data TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_time ON events (at_ms);
CREATE UNIQUE INDEX IF NOT EXISTS lists ON events (generation, at_ms) WHERE generation IS NOT NULL;
PRAGMA user_version = {VERSION};
"""
INSERT = (
    f"INSERT OR IGNORE INTO events ({_COLUMNS}, whole) "  # noqa: S608 - names of ours
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PASSING = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_BUSY_S, isolation_level=None
    )


@contextlib.contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def records_where(db: sqlite3.Connection, what: str, *values: int) -> list[Record]:
    rows = db.execute(f"SELECT {_COLUMNS} FROM events WHERE {what}", values)  # noqa: S608 - `what` is ours
    return [Record(*row) for row in rows]


def first_where(db: sqlite3.Connection, what: str, *values: int) -> Record | None:
    found = records_where(db, what, *values)
    return found[0] if found else None


def chain(db: sqlite3.Connection, first: int, last: int) -> list[Record]:
    """Lists up to `last`, from the last whole one that is not after `first`."""
    (base,) = db.execute(
        "SELECT max(seq) FROM events WHERE whole = 1 AND seq <= ?", (first,)
    ).fetchone()
    what = "generation IS NOT NULL AND seq BETWEEN ? AND ? ORDER BY seq"
    return records_where(db, what, first if base is None else base, last)


def keys_where(db: sqlite3.Connection, what: str, *values: int) -> list[Key]:
    rows = db.execute(
        f"SELECT generation, at_ms FROM events WHERE generation IS NOT NULL AND {what}",  # noqa: S608
        values,
    )
    return [Key(*row) for row in rows]


def row_of(record: Record) -> tuple[Any, ...]:
    return (
        record.seq, record.at_ms, record.kind, record.subject, record.text, record.generation,
        record.data, int(record.whole),
    )  # fmt: skip


def salvage(path: Path) -> list[Record]:
    """What can be read of a damaged file, from both ends, in order. Raises sqlite3.Error where it
    could not be read for a reason that will pass.
    """
    found: dict[int, Record] = {}
    for order in ("ASC", "DESC"):
        try:
            with closing(connect(path, read_only=True)) as db:
                rows = db.execute(f"SELECT {_COLUMNS} FROM events ORDER BY seq {order}")  # noqa: S608
                for row in rows:
                    record = Record(*row)
                    if record.seq in found:
                        break
                    check(record)
                    found[record.seq] = record
        except (sqlite3.Error, ValueError, TypeError) as error:
            if _code(error) in _PASSING:
                raise
            continue  # so far, and no further
    return [found[seq] for seq in sorted(found)]


def damage(why: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def is_damage(error: Exception) -> bool:
    return _code(error) in _DAMAGE


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
