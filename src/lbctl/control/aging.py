"""How the history ages: what is past its limits goes from the database to partitions.

A partition is written first, and only then its records leave the database. Who was killed between
the two finds both, and goes on with the second (`finish`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbctl.control.database import chain, damage, first_where, records_where, transaction
from lbctl.control.snapshots import Key
from lbctl.core.history import check, folded, whole

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from lbctl.control.partitions import Partitions
    from lbctl.control.snapshots import Snapshots
    from lbctl.core.history import Record

log = logging.getLogger("lbctl.history")

CHUNK = 10_000
"""Records of a partition, at most: what a question has to read of it takes some 80 ms."""
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Past any of them the oldest records move to a partition."""

    rows: int = 100_000
    days: float = 30.0
    size_bytes: int = 256_000_000


class Aging:
    """Moves records out of a database that it is given. Every method raises OSError and
    sqlite3.Error, also (`is_damage`) for records that make no sense: those are not moved.

    What iterates moves as it goes, and yields how many records a partition took.
    """

    def __init__(
        self,
        partitions: Partitions,
        snapshots: Snapshots,
        limits: Limits,
        wall_ms: Callable[[], int],
    ) -> None:
        self._partitions = partitions
        self._snapshots = snapshots
        self._limits = limits
        self._wall_ms = wall_ms

    def finish(self, db: sqlite3.Connection) -> None:
        """Where a move was killed half way, its partition is there: take its records out."""
        for one in self._partitions.all():
            if first_where(db, "seq BETWEEN ? AND ? LIMIT 1", one.first, one.last):
                self._take_out(db, _records(db, one.last), _heir(db, one.last))

    def past_rows(self, db: sqlite3.Connection, rows: int) -> Iterator[int]:
        """`rows` is how many there are."""
        while rows > self._limits.rows:
            moved = self._move(db, _nth(db, max(1, self._limits.rows // 4)))
            rows -= moved
            yield moved

    def past_days(self, db: sqlite3.Connection) -> Iterator[int]:
        """A day's at a time, not each record by itself."""
        cutoff_ms = self._wall_ms() - int(self._limits.days * _DAY_MS)
        while True:
            oldest = db.execute("SELECT at_ms FROM events ORDER BY seq LIMIT 1").fetchone()
            if oldest is None or oldest[0] >= cutoff_ms - _DAY_MS:
                return
            (young,) = db.execute(
                "SELECT min(seq) FROM events WHERE at_ms >= ?", (cutoff_ms,)
            ).fetchone()
            last = _nth(db, CHUNK)
            yield self._move(db, last if young is None else min(last, young - 1))

    def past_size(self, db: sqlite3.Connection, rows: int) -> Iterator[int]:
        """`rows` is how many there are."""
        while rows and self._size_bytes(db) > self._limits.size_bytes:
            moved = self._move(db, _nth(db, max(1, rows // 4)))
            rows -= moved
            yield moved

    def _size_bytes(self, db: sqlite3.Connection) -> int:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        return int((pages - free) * page_bytes) + self._snapshots.size_bytes()

    def _move(self, db: sqlite3.Connection, last: int) -> int:
        records, heir = _records(db, last), _heir(db, last)
        self._partitions.write(records)
        self._take_out(db, records, heir)
        log.info("history of %d events is in a partition now", len(records))
        return len(records)

    def _take_out(self, db: sqlite3.Connection, records: list[Record], heir: Record | None) -> None:
        """What is in a partition."""
        self._snapshots.remove(
            Key(one.generation, one.at_ms) for one in records if one.generation is not None
        )
        with transaction(db):
            db.execute("DELETE FROM events WHERE seq <= ?", (records[-1].seq,))
            if heir is not None:
                db.execute(
                    "UPDATE events SET data = ?, whole = 1 WHERE seq = ?", (heir.data, heir.seq)
                )


def _nth(db: sqlite3.Connection, count: int) -> int:
    """The number of the last one of the oldest `count` records, of CHUNK at most. There has to
    be one.
    """
    inner = "SELECT seq FROM events ORDER BY seq LIMIT ?"
    (last,) = db.execute(f"SELECT max(seq) FROM ({inner})", (min(count, CHUNK),)).fetchone()  # noqa: S608
    return int(last)


def _records(db: sqlite3.Connection, last: int) -> list[Record]:
    """Those up to `last`. A broken one would hide what is behind it in a partition."""
    records = records_where(db, "seq <= ? ORDER BY seq", last)
    for one in records:
        try:
            check(one)
        except ValueError as error:
            raise damage(f"event {one.seq}: {error}") from None
    return records


def _heir(db: sqlite3.Connection, last: int) -> Record | None:
    """The first list after `last`, with all members: it has to stand for itself when those before
    it are gone. None where it does, or there is none.
    """
    stays = first_where(db, "generation IS NOT NULL AND seq > ? ORDER BY seq LIMIT 1", last)
    try:
        if stays is None or stays.whole:
            return None
        return whole(list(folded(chain(db, stays.seq, stays.seq)))[-1])
    except (ValueError, TypeError) as error:
        raise damage(f"a list cannot be made whole: {error}") from None
