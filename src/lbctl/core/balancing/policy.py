"""What the policies share: whom they choose from, and how they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

T = TypeVar("T")


class Candidate(Protocol):
    """A backend as a policy sees it. The candidate's owner keeps these up to date."""

    @property
    def name(self) -> str:
        """The backend's id: the same on every worker, and never another backend's."""

    @property
    def weight(self) -> float:
        """Its share beside the others' right now, above 0. Who changes it calls `reweigh()`."""

    @property
    def in_flight(self) -> int:
        """Requests it has now, of this worker; read at every pick."""


C = TypeVar("C", bound=Candidate)


class Policy(Protocol[C]):
    """One way to choose. A worker has one policy, and asks it for every request."""

    def update(self, candidates: Sequence[C]) -> None:
        """From now on choose from these, who are all different."""

    def reweigh(self) -> None:
        """Weights of the present candidates have changed."""

    def pick(self, avoid: Container[C] = (), key: bytes = b"") -> C | None:
        """Who gets the next request: never one in `avoid`; None if there is nobody else.

        `key` says what belongs together, to the policies that hash; the others ignore it.
        """


def requeued(queue: Iterable[T], candidates: Sequence[T]) -> list[T]:
    """The candidates: first those in `queue`, in its order, then the newcomers in theirs."""
    present = set(candidates)
    stay = [one for one in queue if one in present]
    known = set(stay)
    return stay + [one for one in candidates if one not in known]
