"""The interfaces across which the IO packages meet. Composition happens in `process/`.

A fake for a test implements the same Protocol; nothing imports another IO package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from lbctl.model import (
        Backend,
        BackendStatus,
        Instance,
        Membership,
        ProbeResult,
        Process,
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

    async def start(self, count: int) -> list[str]:
        """Start `count` more backends side by side; returns their ids.

        Raises EngineError naming the first failure; what was half made is removed again.
        """

    async def stop(self, instance_id: str, grace_s: float) -> None:
        """End one backend gracefully, killing it after `grace_s`, and remove it.

        One that is gone already is no error.
        """

    async def list(self) -> list[Instance]:
        """Every instance of this project that claims to be a backend, exited ones included."""

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
    """Brings the number of backends to a wish."""

    @property
    def replicas(self) -> int | None:
        """The last wish; None if none was ever told (compose decides, for one)."""

    async def scale(self, replicas: int) -> None:
        """Return when every list holds exactly `replicas` backends.

        Raises DeadlineError that names who lags and why, EngineError, UsageError.
        """


class Traffic(Protocol):
    """What the workers counted."""

    def totals(self) -> TrafficTotals:
        """The sum over all workers that ever ran."""

    def processes(self) -> Sequence[Process]:
        """Every process of this lb that runs now."""


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
