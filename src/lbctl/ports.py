"""The interfaces across which the IO packages meet. Composition happens in `process/`.

A fake for a test implements the same Protocol; nothing imports another IO package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from lbctl.core.history import Event, Listed, Record, Span
    from lbctl.model import (
        Backend,
        BackendStatus,
        Certificate,
        HealingStatus,
        Instance,
        Membership,
        ProbeResult,
        Process,
        Release,
        Rollout,
        Rotation,
        Snapshot,
        TrafficTotals,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """A hint that the runtime's list may have changed. The list is the truth, never this.

    `action` is the runtime's word ("start", "die", "connect" ...), "subscribed" for the first
    one of every watch. `leaving` is True where the instance was sent a terminating signal:
    the list still says it runs, and it must not get another request.

    Two words mean something to discovery, where they come with an id: "die" (it has exited,
    even if a list taken at once still says that it runs) and "start" (it runs, perhaps again).
    """

    action: str
    id: str = ""
    leaving: bool = False


class Runtime(Protocol):
    """Where backends live. Raises only errors of lbctl.errors."""

    name: str

    async def start(self, count: int, release: Release) -> list[str]:
        """Start `count` more backends of this release side by side; returns their ids.

        Raises ImageError where its image is not there, else EngineError naming the first
        failure; what was half made is removed again.
        """

    async def stop(self, instance_id: str, grace_s: float) -> None:
        """End one backend gracefully, killing it after `grace_s`, and remove it.

        One that is gone already is no error.
        """

    async def list(self) -> list[Instance]:
        """Every instance of this project that claims to be a backend, exited ones included."""

    async def last_lines(self, instance_id: str, count: int) -> Sequence[str]:
        """The last lines that one backend said, oldest first, fit to be shown.

        Raises EngineError; one that is gone has said nothing.
        """

    def watch(self) -> AsyncIterator[Change]:
        """Hints as they come. The first is Change("subscribed"): from then on none is missed,
        so a list taken after it is complete. Ends or raises when the connection is lost;
        the caller starts a new one, and lists again.
        """

    async def close(self) -> None:
        """Give back what the runtime holds open. Backends go on running."""


class Probe(Protocol):
    """One health check of a backend."""

    async def __call__(self, backend: Backend) -> ProbeResult: ...


class ListWriter(Protocol):
    """Puts the list into one backend's files."""

    async def write(self, backend: Backend, membership: Membership) -> None:
        """Replace the files, each in one step. Raises OperationError with the reason."""

    async def holds(self, backend: Backend, membership: Membership) -> bool:
        """Whether the backend serves exactly this list. Raises OperationError."""


class Routes(Protocol):
    """The workers, as the control plane sees them."""

    def route(self, snapshot: Snapshot) -> None:
        """Hand a snapshot to all workers, now and to those that connect later."""

    async def unrouted(self, backend_id: str, deadline_s: float) -> int:
        """Wait until every worker routes on a snapshot without this backend and has nothing
        in flight on it, or `deadline_s` passed; returns the requests still in flight.
        """

    def in_flight(self, backend_id: str) -> int:
        """Requests in flight on this backend, over all workers, as last reported."""


class Fleet(Protocol):
    """What the admin API may ask of the control plane."""

    def backends(self) -> Sequence[BackendStatus]:
        """Every known backend, in order of name."""

    def membership(self) -> Membership:
        """The present list."""


class Scaler(Protocol):
    """Decides how many backends there are, and of what."""

    @property
    def replicas(self) -> int | None:
        """The last wish; None if none was ever told (compose decides, for one)."""

    async def scale(self, replicas: int) -> None:
        """Return when every list holds exactly `replicas` backends.

        Raises DeadlineError that names who lags and why, EngineError, UsageError, and
        OperationError while a rollout is under way.
        """

    async def drain(self, backend_id: str) -> None:
        """Take a known backend out by hand; return when it is in no list and nothing is in
        flight on it, or the drain timeout passed. It stays out until `undrain`.

        Raises OperationError where nobody else would be left in rotation.
        """

    async def undrain(self, backend_id: str) -> None:
        """Let it in again; return when it is in rotation, or cannot be for now."""

    async def roll_out(self, image: str, batch: int) -> Rollout:
        """Begin to replace every backend; an empty `image` is the present one.

        Raises OperationError while one is under way or where there is nothing to replace,
        UsageError for what cannot be.
        """

    @property
    def rollout(self) -> Rollout | None:
        """The last one, under way or ended."""

    @property
    def healing(self) -> HealingStatus:
        """What the healer is at."""


class Reloader(Protocol):
    """Swaps the workers of every lb for new ones."""

    def settings(self) -> Mapping[str, Any]:
        """Every setting that the lb heeds, by name."""

    async def reload(self, settings: Mapping[str, Any] | None) -> None:
        """Return when all new workers serve, with `settings` in the place of those of before.

        Raises UsageError for settings that cannot be used, OperationError where the new workers
        did not get so far; the old ones go on.
        """


class Rotator(Protocol):
    """Exchanges the tokens."""

    @property
    def rotating(self) -> bool:
        """Whether tokens of before are still valid beside the present ones."""

    @property
    def changed_at(self) -> datetime | None:
        """When the present ones were made; None while there are none."""

    async def rotate(self) -> Rotation:
        """Return when the tokens of before are valid no more.

        Raises OperationError where another rotation is under way, or files cannot be written.
        """


class Traffic(Protocol):
    """What the workers counted."""

    def totals(self) -> TrafficTotals:
        """The sum over all workers that ever ran."""

    def keep(self) -> None:
        """Save it now: what is told next must not be lost with this process."""

    def processes(self) -> Sequence[Process]:
        """Every process of every lb that runs now."""

    def certificates(self) -> Sequence[Certificate]:
        """Those that clients of this lb are shown."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that the supervisor runs. `pid` is 0 while it does not run; a program that is
    not `wanted` is on its way out.
    """

    name: str
    pid: int
    wanted: bool
    restarts: int


class ProgramHost(Protocol):
    """The supervisor, for the local runtime: it runs programs and restarts those that end."""

    async def run(self, name: str, argv: Sequence[str], log: Path) -> None:
        """Run `argv` (an absolute path first), its output appended to `log`.

        Raises OperationError.
        """

    async def stop(self, name: str, signal_number: int, grace_s: float) -> None:
        """End it for good; returns when it is gone. One that is gone already is no error."""

    def programs(self) -> Sequence[Program]:
        """All of them, as last told."""

    def changes(self) -> AsyncIterator[Sequence[Program]]:
        """The programs after each change, the present ones first."""


class Journal(Protocol):
    """What happened: it is told here, and can be asked for. Questions raise OperationError where
    what is kept cannot be read.
    """

    def record(self, event: Event) -> None:
        """Keep it. Never waits for the disk but for a list's own small file, and never raises."""

    async def settled(self, within_s: float) -> None:
        """Return when all that was recorded before is stored, or cannot be, or time is up."""

    def listening(self, wake: Callable[[], None]) -> AbstractContextManager[None]:
        """While this is entered, `wake` is called whenever there are new records."""

    @property
    def last(self) -> int:
        """The number of the last record."""

    async def after(self, seq: int, limit: int) -> Sequence[Record]:
        """The next ones behind this number, in order; of a number that never was, the latest."""

    async def records(self, span: Span) -> Sequence[Record]:
        """Those of a span, in order."""

    async def lists(self, span: Span) -> Sequence[Listed]:
        """The lists of a span, in order, with all members; fewer at a time where they are long."""

    async def list_at(self, moment: datetime) -> Listed | None:
        """The list that was valid then; None where none is known."""
