"""The history on the disk: the newest part in SQLite, what is old in partitions.

    history/history.db                    the newest records; beside it SQLite's -wal and -shm
    history/history-1-10000.jsonl.gz      older ones (control/partitions.py)
    history/history.db.damaged-<time>     a file that SQLite could not read, as it was
                                          (control/repair.py)
    memberships/                          one file a list (control/snapshots.py)

One `Archive` writes, in one thread of the one controller that leads. (control/reader.py reads.)

Theory of failures. A record that cannot be stored waits in memory, and is stored as soon as that
works again; past `WAITING_LIMIT` or `WAITING_BYTES` later ones are lost, and counted. Not so lists:
they do not count, and past the bytes their files wait for them. A process that is killed leaves a
transaction undone, which SQLite takes back. The lists among what it had not stored have their
snapshots, from which `open` makes records. What can be read of a damaged file goes into a new one;
the damaged one is put aside once that is complete.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lbctl.control import repair
from lbctl.control.aging import Aging
from lbctl.control.database import (
    FILE,
    INSERT,
    SCHEMA,
    VERSION,
    chain,
    connect,
    damage,
    first_where,
    is_damage,
    keys_where,
    row_of,
    salvage,
    transaction,
)
from lbctl.control.partitions import Partitions
from lbctl.control.snapshots import Key
from lbctl.core.history import (
    Event,
    Kind,
    Listed,
    Record,
    folded,
    member_document,
    record_of,
    to_ms,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from lbctl.control.aging import Limits
    from lbctl.control.snapshots import Snapshots
    from lbctl.model import Membership

log = logging.getLogger("lbctl.history")

WAITING_LIMIT = 10_000
WAITING_BYTES = 64_000_000
WHOLE_EVERY = 32
"""A list in so many has all its members; the others between say what changed."""
_RETRY_S = 1.0
_REPAIR_RETRY_S = 10.0  # it reads all there is
_EXAMINE_INTERVAL_S = 60.0
_TIDY_INTERVAL_S = 60.0


class Archive:
    """Writes. Nothing of it raises for what a disk can do: see `problem`."""

    def __init__(
        self,
        directory: Path,
        snapshots: Snapshots,
        limits: Limits,
        wall_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._snapshots = snapshots
        self._wall_ms = wall_ms
        self._clock = clock
        self._partitions = Partitions(directory)
        self._aging = Aging(self._partitions, snapshots, limits, wall_ms)
        self._found: set[Key] | None = _present(snapshots)  # what is put there later is told too
        self._restored: dict[Key, dict[str, Any]] = {}
        self._adopted: set[Key] = set()
        self._db: sqlite3.Connection | None = None
        self._next = 1
        self._waiting: list[Record] = []
        self._weight = 0  # bytes of what waits, about
        self._missed: dict[int, Key] = {}  # lists, by number, that there was no room for
        self._tail: int | None = None  # the generation that the next list may build on
        self._since_whole = 0
        self._tidy_s = 0.0
        self._stuck_s = 0.0
        self._retry_s = 0.0
        self._suspected = False
        self._examine_s = 0.0
        self._damage = self._aside = ""
        self._own: list[Event] = []
        self._lost_before = 0
        self.problem = ""
        self.lost = 0
        self.rows = 0

    @property
    def last(self) -> int:
        """The number of the last record."""
        return self._next - 1

    @property
    def waiting(self) -> int:
        """Records that are in memory only."""
        return len(self._waiting)

    def restored(self, membership: Membership, text: str) -> bool:
        """Before anything else: the list that an earlier controller saved. It gets a record, with
        `text`, unless it has one. Returns whether it has a file.
        """
        key = Key(membership.generation, to_ms(membership.updated_at))
        members = [member_document(member) for member in membership.members]
        self._restored[key] = {"reason": text, "backends": members}
        return self._found is not None and key in self._found

    def suspect(self) -> bool:
        """From any thread: somebody who read met damage. Returns whether the file is to be
        examined by the next `append`; not if it just was.
        """
        now = self._clock()
        if now < self._examine_s:
            return False
        self._examine_s = now + _EXAMINE_INTERVAL_S
        self._suspected = True
        return True

    def append(self, events: Iterable[tuple[Event, int]]) -> list[Record]:
        """Number these (event, unix milliseconds) and store them. What it has to say itself comes
        before them.
        """
        if self._db is None or self._waiting or self._suspected:
            self.flush()  # the numbers go on from what is there
        own = [(event, self._wall_ms()) for event in self._own]
        self._own.clear()
        records = []
        for event, at_ms in [*own, *events]:
            if self._adopted and _key_of(event) in self._adopted:
                continue
            self._wait(event, at_ms)
            # Who listens has no use for all members of a list.
            records.append(record_of(event, self._next, at_ms))
            self._next += 1
        self.flush()
        return records

    def _wait(self, event: Event, at_ms: int) -> None:
        key = _key_of(event)
        if self._weight < WAITING_BYTES and (key or len(self._waiting) < WAITING_LIMIT):
            self._waiting.append(self._number(event, at_ms))
            self._weight += len(self._waiting[-1].data)
        elif key is not None:
            self._missed[self._next] = key
            self._tail = None
        else:
            self.lose(1)

    def lose(self, count: int) -> None:
        """So many events never came here."""
        if count:
            self.lost += count
            self._tail = None

    def flush(self) -> None:
        """Store what waits; if that does not work now, then later."""
        if self.problem and self._clock() < self._retry_s:
            return
        try:
            if self._db is None:
                self._open()
            elif self._suspected:
                with closing(connect(self._directory / FILE, read_only=True)) as db:
                    self._check(db)
            self._store()
        except (OSError, sqlite3.Error) as error:
            if not is_damage(error):
                self._fail(str(error))
            else:
                self._replace_damaged(str(error))
            return
        self._succeed()

    def tidy(self) -> None:
        """Move what is past the limits to partitions."""
        if self._db is None or self.problem or self._clock() < self._stuck_s:
            return
        try:
            self._less(self._aging.past_rows(self._db, self.rows))
            if self._clock() >= self._tidy_s:
                self._tidy_s = self._clock() + _TIDY_INTERVAL_S
                self._less(self._aging.past_days(self._db))
                self._less(self._aging.past_size(self._db, self.rows))
        except (OSError, sqlite3.Error) as error:
            if is_damage(error):
                self._replace_damaged(str(error))
                return
            self._stuck_s = self._clock() + _TIDY_INTERVAL_S
            log.warning("old history stays in %s for now: %s", FILE, error)

    def _less(self, moved: Iterable[int]) -> None:
        for count in moved:
            self.rows -= count

    def close(self) -> None:
        """Store what waits, as far as that works."""
        if self._waiting:
            self._retry_s = 0.0
            self.flush()
        self._shut()

    # Numbers

    def _number(self, event: Event, at_ms: int) -> Record:
        membership = event.membership
        if membership is None:
            return record_of(event, self._next, at_ms)
        follows = self._tail is not None and membership.generation == self._tail + 1
        all_of_it = not follows or self._since_whole >= WHOLE_EVERY
        self._since_whole = 1 if all_of_it else self._since_whole + 1
        self._tail = membership.generation
        return record_of(event, self._next, at_ms, whole=all_of_it)

    # The file

    def _open(self) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._partitions.clear_unfinished()
        if aside := repair.finish(self._directory):
            self._aside, self._tail = aside, None
            # What the others build on may be gone.
            self._waiting = [one for one in self._waiting if one.generation is None or one.whole]
        self._db = db = connect(self._directory / FILE)
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] > VERSION:
                raise damage("it is of a newer version")
            self._check(db)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA temp_store = MEMORY")
            db.execute("PRAGMA journal_size_limit = 4194304")
            db.executescript(SCHEMA)
            self._aging.finish(db)
            self._renumber()
            self._tell_repaired()
            self._adopt()
        except BaseException:
            self._shut()
            raise

    def _check(self, db: sqlite3.Connection) -> None:
        """Raises what `is_damage`. A suspicion is looked into with all indices."""
        how, self._suspected = "integrity" if self._suspected else "quick", False
        verdict = db.execute(f"PRAGMA {how}_check(1)").fetchone()[0]
        if verdict != "ok":
            raise damage(str(verdict))

    def _shut(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.OperationalError("not open")
        return self._db

    def _store(self) -> None:
        """What waits, then the lists whose files do so for them: they came after."""
        self._insert(self._waiting)
        if self._missed:
            found = self._from_files(list(self._missed.items()), self._last_members())
            self._insert(found)
            lost, self._missed = len(self._missed) - len(found), {}
            self.lose(lost)

    def _insert(self, records: Sequence[Record]) -> None:
        if not records:
            return
        db = self._connected()
        with transaction(db):
            stored = db.executemany(INSERT, map(row_of, records)).rowcount
        self.rows += stored

    def _renumber(self) -> None:
        """Count on from what there is. What waited from before it could be opened comes after."""
        db = self._connected()
        (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        (self.rows,) = db.execute("SELECT count(*) FROM events").fetchone()
        old = max([last, *(one.last for one in self._partitions.all())])
        self._shift(max(0, old + 1 - self._first()))

    def _first(self) -> int:
        """The number of the first record that is not stored."""
        return min([*(one.seq for one in self._waiting[:1]), *self._missed, self._next])

    def _shift(self, by: int) -> None:
        self._waiting = [replace(one, seq=one.seq + by) for one in self._waiting]
        self._missed = {seq + by: key for seq, key in self._missed.items()}
        self._next += by

    # Snapshots without a record

    def _adopt(self) -> None:
        """Make records of lists that a killed controller published, but had not stored yet."""
        db = self._connected()
        present, self._found = self._found, None
        missing = _present(self._snapshots) if present is None else present
        missing |= self._restored.keys()
        missing -= {*keys_where(db, "1"), *self._missed.values()}
        missing -= {
            Key(waiting.generation, waiting.at_ms)
            for waiting in self._waiting
            if waiting.generation is not None
        }
        for partition in self._partitions.all():
            if any(partition.from_ms <= key.at_ms <= partition.until_ms for key in missing):
                missing -= {
                    Key(record.generation, record.at_ms)
                    for record in self._partitions.read(partition)
                    if record.generation is not None
                }
        in_order = sorted(missing, key=lambda key: (key.at_ms, key.generation))
        found = self._from_files(list(enumerate(in_order, self._first())), self._last_members())
        if found:
            log.info("%d lists are taken into the history from their snapshots", len(found))
            first = self._first()
            found = [replace(one, seq=seq) for seq, one in enumerate(found, first)]
            self._adopted |= {Key(one.generation or 0, one.at_ms) for one in found}
            self._shift(len(found))
            self._waiting = [*found, *self._waiting]

    def _from_files(
        self, numbered: Sequence[tuple[int, Key]], before: Sequence[Any]
    ) -> list[Record]:
        """Records of lists; not of those whose file is of no use. `before`: members of the list
        before the first.
        """
        found = []
        for seq, key in numbered:
            try:
                snapshot = self._snapshots.read(key)
            except (OSError, ValueError) as error:
                if key not in self._restored:
                    log.warning("%s is of no use: %s", key.file_name, error)
                    continue
                snapshot = self._restored[key]
            found.append(_adopted(seq, key, snapshot, before))
            before = snapshot["backends"]
        return found

    def _last_members(self) -> Sequence[Any]:
        db = self._connected()
        newest = first_where(db, "generation IS NOT NULL ORDER BY seq DESC LIMIT 1")
        try:
            lists = [] if newest is None else list(folded(chain(db, newest.seq, newest.seq)))
        except ValueError:
            return ()  # what follows has all its members all the same
        return lists[-1].members if lists else ()

    # What goes wrong

    def _fail(self, text: str, retry_s: float = _RETRY_S) -> None:
        self._retry_s = self._clock() + retry_s
        if text != self.problem:
            log.warning("the history cannot be written: %s; events wait in memory", text)
        self.problem = text

    def _succeed(self) -> None:
        self._waiting.clear()
        self._weight = 0
        if self.problem:
            lost = self.lost - self._lost_before
            gone = f"; {lost} events were lost" if lost else ""
            log.info("the history is written again%s", gone)
            self._own.append(Event(Kind.HISTORY, f"it is written again{gone}", data={"lost": lost}))
            self.problem, self._lost_before = "", self.lost

    def _replace_damaged(self, why: str) -> None:
        """Go on in a new file with what can be read of this one."""
        self._shut()
        if why != self._damage:
            log.error("%s is damaged: %s", FILE, why)
        self._damage = why
        try:
            saved = map(self._rebuilt, salvage(self._directory / FILE))
            records = (record for record in saved if record is not None)
            repair.build(self._directory, records, self._wall_ms())
            self._open()
            self._store()
        except (OSError, sqlite3.Error) as error:
            self._fail(
                f"{FILE} is damaged ({why}), and cannot be replaced: {error}", _REPAIR_RETRY_S
            )
        else:
            self._succeed()

    def _tell_repaired(self) -> None:
        if self._aside:
            why = f" ({self._damage})" if self._damage else ""
            text = f"{FILE} was damaged{why} and is put aside as {self._aside}"
            log.error("%s; %d of its records are saved", text, self.rows)
            self._own.append(Event(Kind.HISTORY, f"{text}; {self.rows} of its records are saved"))
            self._damage = self._aside = ""

    def _rebuilt(self, record: Record) -> Record | None:
        """A record out of a damaged file. A list may make no sense, or have lost what it builds on,
        but has a file of its own; where that is gone too, None.
        """
        if record.generation is None:
            return record
        with contextlib.suppress(ValueError):
            return next(folded([record])).record  # it stands for itself
        try:
            snapshot = self._snapshots.read(Key(record.generation, record.at_ms))
        except (OSError, ValueError):
            return None
        return whole(Listed(record, tuple(snapshot["backends"])))


def _present(snapshots: Snapshots) -> set[Key]:
    try:
        return set(snapshots.all())
    except OSError as error:
        log.warning("the files of lists cannot be found: %s", error)
        return set()


def _key_of(event: Event) -> Key | None:
    one = event.membership
    return None if one is None else Key(one.generation, to_ms(one.updated_at))


def _adopted(seq: int, key: Key, snapshot: dict[str, Any], before: Sequence[Any]) -> Record:
    """The record of a list that only its snapshot tells of."""
    members = snapshot["backends"]
    old, new = ({one["id"]: one for one in some} for some in (before, members))
    data = {
        "generation": key.generation,
        "count": len(members),
        "joined": [one for one in members if one["id"] not in old],
        "left": [dict(one) for one in before if one["id"] not in new],
        "changed": [one for one in members if old.get(one["id"], one) != one],
        "members": members,
    }
    return Record(
        seq, key.at_ms, Kind.GENERATION.value, str(key.generation), snapshot["reason"],
        key.generation, json.dumps(data, separators=(",", ":")),
    )  # fmt: skip
