"""Answers questions about the past: the database and its partitions as one.

Runs in a thread beside the writer's, and opens what it reads for each question anew.
"""

from __future__ import annotations

import contextlib
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.control.database import (
    FILE,
    chain,
    connect,
    first_where,
    records_where,
    transaction,
)
from lbctl.control.partitions import Partitions
from lbctl.core.history import folded

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from lbctl.control.partitions import Partition
    from lbctl.core.history import Listed, Record, Span

MEMBERS_LIMIT = 20_000
"""Of all lists of an answer together."""


class Reader:
    """Answers questions, partitions included. Raises OSError and sqlite3.Error."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._partitions = Partitions(directory)

    def records(self, span: Span) -> list[Record]:
        """Those of the span, in order."""
        # What a move takes out of the database meanwhile is in a partition by then: so look at the
        # database first, and take from partitions what is older than anything in there.
        found, first = self._stored(span)
        if not span.oldest and len(found) >= span.limit:
            return found
        older: list[Record] = []
        partitions = self._old(span)
        for one in partitions if span.oldest else reversed(partitions):
            part = [
                record
                for record in self._partitions.read(one)
                if span.has(record) and (first is None or record.seq < first)
            ]
            older = [*older, *part] if span.oldest else [*part, *older]
            if len(older) >= span.limit or (not span.oldest and len(older + found) >= span.limit):
                break
        everything = [*older, *found]
        return everything[: span.limit] if span.oldest else everything[-span.limit :]

    def lists(self, span: Span) -> list[Listed]:
        """Those of the span, in order; fewer where they have very many members."""
        found = _fitting(self.records(replace(span, lists=True)), span.oldest)
        if not found:
            return []
        wanted = {record.seq for record in found}
        records = self._whole_chain(found[0].seq, found[-1].seq)
        return [one for one in folded(records) if one.record.seq in wanted]

    def at(self, at_ms: int) -> Listed | None:
        """The list that was valid then; None where there was none yet, or it is not known."""
        found = None
        with self._reading() as db:
            if db is not None:
                condition = "generation IS NOT NULL AND at_ms <= ? ORDER BY at_ms DESC, seq DESC"
                found = first_where(db, f"{condition} LIMIT 1", at_ms)
        for one in reversed(self._partitions.all()):
            if found is not None:
                break
            for record in self._partitions.read(one) if one.from_ms <= at_ms else ():
                if record.generation is not None and record.at_ms <= at_ms:
                    found = record
        if found is None:
            return None
        lists = list(folded(self._whole_chain(found.seq, found.seq)))
        return lists[-1] if lists else None

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        path = self._directory / FILE
        if not path.exists():
            yield None
            return
        with closing(connect(path, read_only=True)) as db, transaction(db, "DEFERRED"):
            made = db.execute("PRAGMA user_version").fetchone()[0] != 0
            yield db if made else None

    def _stored(self, span: Span) -> tuple[list[Record], int | None]:
        """What the database has of it, and the first number that is in there at all."""
        order = "ASC" if span.oldest else "DESC"
        conditions = ["1"]
        values = []
        for condition, value in (
            ("seq > ?", span.after), ("seq < ?", span.before),
            ("at_ms >= ?", span.since_ms), ("at_ms <= ?", span.until_ms),
        ):  # fmt: skip
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if span.lists:
            conditions.append("generation IS NOT NULL")
        with self._reading() as db:
            if db is None:
                return [], None
            (first,) = db.execute("SELECT min(seq) FROM events").fetchone()
            what = f"{' AND '.join(conditions)} ORDER BY seq {order} LIMIT ?"
            found = records_where(db, what, *values, span.limit)
        return (found if span.oldest else found[::-1]), first

    def _old(self, span: Span) -> list[Partition]:
        """Partitions that may have something of it."""
        return [
            one
            for one in self._partitions.all()
            if (span.after is None or one.last > span.after)
            and (span.before is None or one.first < span.before)
            and (span.since_ms is None or one.until_ms >= span.since_ms)
            and (span.until_ms is None or one.from_ms <= span.until_ms)
        ]

    def _whole_chain(self, first: int, last: int) -> list[Record]:
        """All lists from one that is whole, and not after `first`, to `last`."""
        stored: list[Record] = []
        with self._reading() as db:
            if db is not None:
                stored = chain(db, first, last)
        lists = stored
        if not stored or stored[0].seq > first:
            old = [one for one in self._partitions.all() if one.last >= first and one.first <= last]
            lists = [
                record
                for one in old
                for record in self._partitions.read(one)
                if record.generation is not None and record.seq <= last
            ]
            known = {record.seq for record in lists}
            lists += [record for record in stored if record.seq not in known]
        # Of a damaged partition the beginning may be gone: nobody knows what follows from it.
        start = next((i for i, record in enumerate(lists) if record.whole), len(lists))
        return lists[start:]


def _fitting(lists: list[Record], oldest: bool) -> list[Record]:
    """As many of them, from that end, as have no more members together than an answer may; one at
    least. This comes first: to make a list whole takes long, and memory.
    """
    kept = members = 0
    for record in lists if oldest else reversed(lists):
        members += record.count
        if kept and members > MEMBERS_LIMIT:
            break
        kept += 1
    return lists[:kept] if oldest else lists[len(lists) - kept :]
