"""Putting a whole stack on this machine, and taking it off again: what `lbctl up` and
`lbctl down` do. `Stack` is the one interface; `docker` and `local` beside this implement it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from lbctl.config import Config


@dataclass(frozen=True, slots=True)
class StackOptions:
    """How a stack is wanted.

    `config` carries the project, the ports and every setting of the lb's processes. The
    images count on docker alone: an empty reference is lbctl's own image of this version,
    which is built where it is absent, and built anew with `build`. `lbs` is how many serve one
    address (0: two on docker; the local runtime has one).
    """

    config: Config
    lb_image: str = ""
    backend_image: str = ""
    build: bool = False
    lbs: int = 0


class LogLine(NamedTuple):
    """One line of a log, and whose it is: a container's name, on local "lb" or a backend's.
    `width` is that of the longest of these names.
    """

    whose: str
    text: str
    width: int = 0

    def __str__(self) -> str:
        return f"{self.whose:{self.width}} | {self.text}"


class Address(NamedTuple):
    """Where something listens on this machine."""

    host: str
    port: int

    @property
    def reached(self) -> Address:
        """How a client on this machine reaches it: all addresses means loopback too."""
        return self._replace(host="127.0.0.1") if self.host in ("", "0.0.0.0", "::") else self

    @property
    def url(self) -> str:
        """The same as a URL."""
        return self._url("http")

    @property
    def secure_url(self) -> str:
        """The same for a port that speaks TLS."""
        return self._url("https")

    def _url(self, scheme: str) -> str:
        host, port = self.reached
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


@dataclass(frozen=True, slots=True)
class FoundStack:
    """A stack of this project that is there. `lb` names its container or process; with
    `running` False it has ended (or never started), and `up` or `down` is what helps. `lbs` are
    the names of those that are at work, where they have names.
    """

    runtime: str
    project: str
    lb: str
    running: bool
    traffic: Address
    admin: Address
    lbs: tuple[str, ...] = ()
    image: str = ""
    managed: bool = True  # made by `up`, and brought to its settings by it
    tls: Address | None = None  # where it speaks TLS, if it does
    tls_files: Mapping[str, str] = field(default_factory=dict)  # settings, with names on this side


class Progress(Protocol):
    """Where a long operation tells what it does."""

    def note(self, text: str) -> None:
        """One step, in words: stays on the screen."""

    def log(self, line: str) -> None:
        """One line of a build or a pull: of interest while it runs, or when it fails."""

    def part(self, done: float, total: float, text: str) -> None:
        """So much of the whole is done."""


class Unwatched:
    """A Progress of which nobody wants to know."""

    def note(self, text: str) -> None:
        """Said to nobody."""

    def log(self, line: str) -> None:
        """Neither is this."""

    def part(self, done: float, total: float, text: str) -> None:
        """Nor this."""


class Count:
    """How many of a whole are done, as a Progress is told; none to begin with."""

    def __init__(self, progress: Progress, total: int, noun: str) -> None:
        """`noun` is what there are, in the plural."""
        self._progress = progress
        self._total = total
        self._noun = noun
        self._done = 0
        self._reach(0)

    def one_more(self) -> None:
        """Another one is done."""
        self._reach(self._done + 1)

    def left(self, left: int) -> None:
        """So many are still to be done."""
        self._reach(max(self._done, self._total - left))

    def _reach(self, done: int) -> None:
        self._done, self._total = done, max(done, self._total)  # some may have come meanwhile
        if self._total:
            self._progress.part(done, self._total, f"{self._noun}: {done} of {self._total}")


class Stack(Protocol):
    """The stack of one project on one runtime. Raises only errors of lbctl.errors."""

    runtime: str

    async def find(self) -> FoundStack | None:
        """What is there of this project; None where nothing is."""

    async def settled(self, progress: Progress) -> FoundStack | None:
        """The same, as soon as no other command of this user is at work on it."""

    async def up(self, options: StackOptions, progress: Progress) -> FoundStack:
        """Start the lb, or bring it to these options; backends are asked of it afterwards.

        Run again with the same options, it changes nothing. When it fails, everything it
        made is removed, and a stack that ran before runs on. Raises UsageError,
        MachineError, OperationError (a port in use is one), ImageError.
        """

    async def upgrade(self, options: StackOptions, progress: Progress) -> FoundStack:
        """Replace every lb container, one after the other, without a failed request.

        Raises as `up` does, and OperationError where nothing of that kind runs.
        """

    async def down(self, progress: Progress) -> bool:
        """End and remove everything of this project; False where there was nothing."""

    async def fetch(self, image: str, progress: Progress) -> None:
        """See to it that an image for backends is there: pulled, or built if it is lbctl's own.

        Raises ImageError with the cause, and UsageError where backends are not made from images.
        """

    async def admin_token(self) -> str:
        """What changes through the admin port need. Never log it.

        Raises OperationError while the lb has not made it yet.
        """

    def logs(self, follow: bool, tail: int) -> AsyncIterator[LogLine]:
        """The last `tail` lines of each process, then with `follow` the new ones as they come."""

    async def close(self) -> None:
        """Give back what this object holds open. The stack runs on."""
