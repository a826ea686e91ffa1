"""What the guard does about lbs that do not run, decided from what the engine shows.

Containers that share another one's network namespace are not the engine's to keep: when it
starts, it starts them side by side with the one they join, and gives up on those that were too
early (moby/moby#50326); and where that one was started anew, they are left in a namespace that
leads nowhere. An lb is well if it runs, and was started after the pod was.

Somebody who stops a container wants it stopped: the engine says `stop` then, behind `die`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Remedy(Enum):
    """What helps."""

    START = "start"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Piece:
    """A pod or an lb, as the engine's inspection tells. `started_at` is RFC 3339 in UTC, or "" if
    it never ran; `error` is why its last start failed.
    """

    id: str
    name: str
    is_pod: bool
    running: bool
    started_at: str
    error: str
    joins: str = ""  # an lb's: the id of its pod
    exit_status: int = 0
    exited_at: float = 0.0  # seconds since the epoch


def remedies(
    pieces: Iterable[Piece],
    stopped: Collection[str],
    moved: Collection[tuple[str, str]],
    now: float,
    grace_s: float,
) -> list[tuple[Remedy, Piece]]:
    """What to do, the pod first.

    `moved`: those lbs that were restarted already for a start of their pod, by id and that time:
    where the clock was set back they seem to be the older ones for ever.

    `stopped`: ids of those that somebody stopped. One that has only just exited is left alone
    for `grace_s`: the engine may start it again by itself, or be about to say `stop`. One that
    never ran is somebody's work in progress, and one that ended well was told to.
    """
    found = sorted(pieces, key=lambda piece: (not piece.is_pod, piece.name))
    pods = [piece for piece in found if piece.is_pod]
    actions: list[tuple[Remedy, Piece]] = []
    for piece in found:
        if not piece.running:
            left_alone = now - piece.exited_at < grace_s
            crashed = piece.exit_status != 0 and piece.id not in stopped and not left_alone
            if piece.error or crashed:
                actions.append((Remedy.START, piece))
        elif any(_misses(piece, pod) for pod in pods) and move_of(piece, pods) not in moved:
            actions.append((Remedy.RESTART, piece))
    if any(piece.is_pod for _, piece in actions):
        return [action for action in actions if action[1].is_pod]  # the others need it
    if pods and not any(pod.running for pod in pods):
        return []  # and it is to stay away
    return actions


def _misses(lb: Piece, pod: Piece) -> bool:
    """Whether an lb is still in the namespace of its pod's last life."""
    return pod.id == lb.joins and pod.running and lb.started_at < pod.started_at


def move_of(lb: Piece, pods: Iterable[Piece]) -> tuple[str, str]:
    """An lb's coming into the present life of its pod; see `moved`."""
    return lb.id, next((pod.started_at for pod in pods if pod.id == lb.joins), "")
