"""What is disturbed: a balancer on a published port, and its backends, on the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Backend:
    """One container, by its name and its address."""

    name: str
    address: str


class Stack(Protocol):
    """Methods block until what they do is done, and raise LbctlError if it cannot be."""

    @property
    def port(self) -> int:
        """Of 127.0.0.1, where clients come in."""

    def up(self, backends: int) -> None:
        """Start everything, on an engine that has nothing of it."""

    def down(self) -> None:
        """End and remove everything, whatever became of it."""

    def backends(self) -> list[Backend]:
        """Those that run, the oldest first."""

    def scale(self, count: int) -> None:
        """To so many backends, the way its operator does it."""

    def replace_all(self) -> None:
        """Every backend by a new one."""

    def reload(self) -> None:
        """New processes of the balancer in place of the old ones, in the gentlest way it has."""

    def kill_worker(self) -> None:
        """SIGKILL of one of several processes that serve clients."""

    def kill(self) -> None:
        """SIGKILL of the balancer's first process; what restarts it is its own affair."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One column of the table. `lacks`: by disturbance, why it cannot be had here."""

    name: str
    title: str
    version: str
    make: Callable[[], Stack]
    lacks: Mapping[str, str]
