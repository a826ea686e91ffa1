"""A past to write down: lists and events with a clock that a test turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lbctl.control.aging import Limits
from lbctl.control.archive import Archive
from lbctl.control.reader import Reader
from lbctl.control.snapshots import Snapshots
from lbctl.core.history import Event, Kind, Record, Span, list_events, to_ms
from lbctl.model import Backend, Member, Membership

if TYPE_CHECKING:
    from pathlib import Path

BEGAN = datetime(2026, 11, 27, 10, 0, 0, 0, UTC)
EVERYTHING = Span(1_000_000, oldest=True)


def member(number: int) -> Member:
    return Member(
        Backend(f"id-{number}", f"b-{number}", f"10.0.{number // 250}.{number % 250}"), BEGAN
    )


@dataclass
class Past:
    """A state directory, its archive, and what happens."""

    state: Path
    limits: Limits = field(default_factory=Limits)
    now: datetime = BEGAN
    seconds: float = 0.0
    membership: Membership = field(default_factory=lambda: Membership(0, BEGAN, ()))

    def __post_init__(self) -> None:
        self.snapshots = Snapshots(self.state / "memberships")
        self.reader = Reader(self.directory)
        self.archive = self.opened()

    @property
    def directory(self) -> Path:
        return self.state / "history"

    @property
    def database(self) -> Path:
        return self.directory / "history.db"

    def opened(self) -> Archive:
        """The archive of the next controller."""
        return Archive(
            self.directory, self.snapshots, self.limits, lambda: to_ms(self.now),
            lambda: self.seconds,
        )  # fmt: skip

    def next_controller(self) -> None:
        """As after a kill -9: nothing was closed."""
        self.archive = self.opened()

    def pass_time(self, **length: float) -> None:
        self.now += timedelta(**length)
        self.seconds += timedelta(**length).total_seconds()

    def events(self, count: int) -> list[Record]:
        """So many of no consequence, a second apart."""
        made = []
        for _ in range(count):
            self.pass_time(seconds=1)
            made.append((Event(Kind.DOWN, "it is paused", "b-1", {"n": 1}), to_ms(self.now)))
        return self.archive.append(made)

    def change(self, *numbers: int) -> Membership:
        """A new list of these, its snapshot written, the archive not told."""
        self.pass_time(seconds=1)
        members = tuple(member(number) for number in sorted(numbers))
        generation = self.membership.generation + 1
        self.membership = Membership(generation, self.now, members)
        self.snapshots.write(self.membership, "because")
        return self.membership

    def lists(self, *numbers: int) -> list[Record]:
        """The same, and what follows from it is told."""
        before = self.membership
        told = list_events(before, self.change(*numbers), {})
        return self.archive.append([(event, to_ms(self.now)) for event in told])

    def kept(self, **span: Any) -> list[int]:
        """The numbers of what a question finds."""
        asked = Span(**({"limit": 1_000_000, "oldest": True} | span))
        return [record.seq for record in self.reader.records(asked)]

    def rotations(self, **span: Any) -> dict[int, list[str]]:
        """Names on each list, by generation."""
        asked = Span(**({"limit": 1_000_000, "oldest": True} | span))
        return {
            one.record.generation or 0: [str(member["name"]) for member in one.members]
            for one in self.reader.lists(asked)
        }

    def files(self, pattern: str = "*") -> list[str]:
        return sorted(path.name for path in self.directory.glob(pattern))
