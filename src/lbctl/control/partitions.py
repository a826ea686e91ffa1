"""What is old: files of compressed JSON lines that never change.

    history-<from>-<to>.jsonl.gz      the numbers of the first and the last record in it

The first line says what is in it, each other one is a record. A partition is complete and on the
disk before it has its name, and only then its records leave the database; so a record may be in
both for a while, and is never in neither.
"""

from __future__ import annotations

import errno
import gzip
import json
import logging
import os
import re
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from lbctl.core.history import from_line, to_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lbctl.core.history import Record

log = logging.getLogger("lbctl.history")

_NAME = re.compile(r"history-([0-9]+)-([0-9]+)\.jsonl\.gz")
_FORMAT = 1
_LEVEL = 6
_ERRORS = (OSError, EOFError, ValueError, zlib.error)
_OF_THE_FILE = frozenset({errno.EIO, errno.EISDIR, errno.ELOOP})
"""What the file itself is to blame for. Others, such as too many open files, pass."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One file: which numbers it has, and of what time (unix milliseconds, the extremes)."""

    path: Path
    first: int
    last: int
    from_ms: int
    until_ms: int


class Partitions:
    """Those of one directory. A damaged file is passed over, and named in `damaged`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, Partition] = {}
        self.damaged: set[str] = set()

    def all(self) -> list[Partition]:
        """In order of their numbers, as they are now. Raises OSError."""
        try:
            there = [path.name for path in self._directory.iterdir()]
        except FileNotFoundError:
            there = []  # nothing was ever written
        names = {name: match for name in there if (match := _NAME.fullmatch(name)) is not None}
        self._known = {name: one for name, one in self._known.items() if name in names}
        for name, match in names.items():
            if name not in self._known and name not in self.damaged:
                self._meet(name, int(match[1]), int(match[2]))
        return sorted(self._known.values(), key=lambda one: one.first)

    def _meet(self, name: str, first: int, last: int) -> None:
        path = self._directory / name
        try:
            with gzip.open(path, "rb") as file:
                head = json.loads(file.readline())
            if head["lbctl_history"] != _FORMAT:
                raise ValueError("of another version")
            one = Partition(path, first, last, int(head["from_ms"]), int(head["until_ms"]))
        except (*_ERRORS, KeyError, TypeError) as error:
            self._pass_over(name, error)
        else:
            self._known[name] = one

    def read(self, partition: Partition) -> Iterator[Record]:
        """Its records in order; as far as they can be read. Raises OSError."""
        try:
            with gzip.open(partition.path, "rb") as file:
                file.readline()
                for line in file:
                    yield from_line(line)
        except _ERRORS as error:
            self._pass_over(partition.path.name, error)

    def _pass_over(self, name: str, error: Exception) -> None:
        """Raises what will pass: the file is asked again then."""
        if _passes(error):
            raise error
        if name not in self.damaged:
            self.damaged.add(name)
            log.warning("%s cannot be read, or not to its end: %s", name, error)

    def write(self, records: Sequence[Record]) -> Partition:
        """A file of these, at least one. It is on the disk when this returns. Raises OSError."""
        first, last = records[0].seq, records[-1].seq
        times = [record.at_ms for record in records]
        head = {"lbctl_history": _FORMAT, "from_ms": min(times), "until_ms": max(times)}
        path = self._directory / f"history-{first}-{last}.jsonl.gz"
        temporary = path.with_name(f".{path.name}.new")
        try:
            with temporary.open("wb") as file:
                os.fchmod(file.fileno(), 0o400)
                _write(file, [json.dumps(head), *map(to_line, records)])
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(self._directory)
        return Partition(path, first, last, min(times), max(times))

    def clear_unfinished(self) -> None:
        """Remove what a killed writer left. Raises OSError."""
        for path in self._directory.glob(".history-*.new"):
            path.unlink(missing_ok=True)


def _passes(error: Exception) -> bool:
    damage = isinstance(error, gzip.BadGzipFile)
    return isinstance(error, OSError) and not damage and error.errno not in _OF_THE_FILE


def _write(file: IO[bytes], lines: Sequence[str]) -> None:
    with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=_LEVEL) as packed:
        for line in lines:
            packed.write(line.encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
