"""One file a list: never changed once it is there, under a name that no other list has.

    memberships/0000042-20261127T172430.123Z.json   generation and time
    memberships/latest                              a link to the newest, replaced in one step

A list has its file before any backend is sent it. So whatever becomes of a controller and of what
it had not written yet, the next one finds every list that anybody was ever given.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lbctl.core.history import from_ms, member_document, to_ms
from lbctl.core.iplist import timestamp
from lbctl.paths import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lbctl.model import Membership

_NAME = re.compile(r"([0-9]{7,})-([0-9]{8}T[0-9]{6})\.([0-9]{3})Z\.json")


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What names a list: generations alone begin again where the saved one was lost."""

    generation: int
    at_ms: int

    @property
    def file_name(self) -> str:
        at = from_ms(self.at_ms)
        return f"{self.generation:07d}-{at:%Y%m%dT%H%M%S}.{self.at_ms % 1000:03d}Z.json"


class Snapshots:
    """The files of one directory. Every method raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, membership: Membership, reason: str) -> None:
        """Put the file of a list there, and let `latest` name it."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        key = Key(membership.generation, to_ms(membership.updated_at))
        document = {
            "generation": membership.generation,
            "updated_at": timestamp(membership.updated_at),
            "reason": reason,
            "backends": [member_document(member) for member in membership.members],
        }
        data = (json.dumps(document) + "\n").encode()
        write_atomically(self._directory / key.file_name, data, 0o400)
        link = self._directory / f".latest.{secrets.token_hex(4)}"
        link.symlink_to(key.file_name)
        try:
            link.replace(self._directory / "latest")
        except OSError:
            link.unlink(missing_ok=True)
            raise

    def all(self) -> list[Key]:
        """Of all files there are, in order. What has another name is no snapshot."""
        try:
            names = [path.name for path in self._directory.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(key for name in names if (key := key_of(name)) is not None)

    def read(self, key: Key) -> dict[str, Any]:
        """`reason` and `backends` of a list. Raises ValueError where the file is damaged."""
        document = json.loads((self._directory / key.file_name).read_bytes())
        try:
            reason, backends = str(document["reason"]), document["backends"]
            members = [
                {name: str(one[name]) for name in ("ip", "id", "name", "since")} for one in backends
            ]
        except (KeyError, TypeError) as error:
            raise ValueError(f"no snapshot: {error!r}") from None
        return {"reason": reason, "backends": members}

    def remove(self, keys: Iterable[Key]) -> None:
        """Those that are there of these. The one that `latest` names stays."""
        latest = self._directory / "latest"
        kept = latest.readlink().name if latest.is_symlink() else ""
        for key in keys:
            if key.file_name != kept:
                (self._directory / key.file_name).unlink(missing_ok=True)

    def size_bytes(self) -> int:
        """Of all of them together."""
        try:
            with os.scandir(self._directory) as entries:
                return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
        except FileNotFoundError:
            return 0


def key_of(name: str) -> Key | None:
    """What a file's name says; None where it is no snapshot's."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        at = datetime.strptime(found[2], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return Key(int(found[1]), int(at.timestamp()) * 1000 + int(found[3]))
