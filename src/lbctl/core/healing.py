"""Replacing backends that are gone or ill, as a pure decision: facts in, actions out.

A backend is *missed* when it has been out of rotation for `after_s`, or is not there at all.
For each that is missed a newcomer is started; when enough are in rotation again, those of our
own that were missed leave. Whoever was taken out by hand is where somebody wants it, and a
stranger is never touched, though it is missed like the others. Who was ejected is not missed: it is
well by its checks, and comes back by itself; another one of the same image would do no better.

A newcomer that is missed itself was *fruitless*: then the next one waits, twice as long each
time, and after `limit` in a row there is no next one. A backend that enters rotation, or a
person who asks for something, makes an end of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbctl.core.backoff import Backoff
from lbctl.core.lifecycle import counts, in_rotation
from lbctl.model import HealingState, HealingStatus, Phase, State

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from lbctl.model import BackendStatus, Instance


@dataclass(frozen=True, slots=True)
class Treatment:
    """What to do now. `start` is a number of newcomers; `stop` leave gracefully, `clear` are
    dead. `fruitless` are the newcomers that were of no use, and leave by one of the two.
    """

    start: int = 0
    stop: tuple[str, ...] = ()
    clear: tuple[str, ...] = ()
    fruitless: tuple[str, ...] = ()


def treat(
    replicas: int,
    instances: Sequence[Instance],
    statuses: Mapping[str, BackendStatus],
    *,
    resting: Collection[str] = (),
    missed: Collection[str] = (),
    newcomers: Collection[str] = (),
) -> Treatment:
    """`instances` is a complete list; the others are ids: `resting` were taken out by hand and
    run, `newcomers` were started by healing and were not in rotation at the last look.
    """
    # Its runtime starts again what has exited, mostly before anybody could be missed. Nor is
    # one that was told to stop: it exits, or it comes back.
    there = [i for i in instances if i.id not in missed and (i.phase is Phase.EXITED or counts(i))]
    well = [i for i in there if in_rotation(statuses.get(i.id)) or i.id in resting]
    ill = [i for i in instances if i.id in missed and i.revision and i.phase is not Phase.STOPPING]
    clear = [i.id for i in ill if i.phase is Phase.EXITED]
    # A newcomer that is missed serves nobody, and would only be in its successor's way.
    stop = [
        i.id
        for i in ill
        if i.phase is not Phase.EXITED and (i.id in newcomers or len(well) >= replicas)
    ]
    # Where one that was missed came back meanwhile, its newcomer is one too many.
    extra = sorted(
        (i for i in there if i.id in newcomers), key=lambda i: in_rotation(statuses.get(i.id))
    )
    surplus = [i.id for i in extra[: max(0, len(there) - replicas)]]
    present = {i.id for i in instances}
    return Treatment(
        start=max(0, replicas - len(there)),
        stop=(*stop, *surplus),
        clear=tuple(clear),
        fruitless=tuple(one for one in newcomers if one in missed or one not in present),
    )


class Patience:
    """For how long each backend has been out, and how often help was of no use.

    `now` is monotonic seconds. Time that passes while nobody looks counts.
    """

    def __init__(self, after_s: float, limit: int, retry_min_s: float, retry_max_s: float) -> None:
        self._after_s = after_s
        self._limit = limit
        self._backoff = Backoff(retry_min_s, retry_max_s)
        self._out_since: dict[str, float] = {}
        self._well: frozenset[str] = frozenset()
        self._fruitless = 0
        self._why = ""
        self._next_try_s = 0.0

    def look(
        self, now: float, statuses: Mapping[str, BackendStatus], resting: Collection[str]
    ) -> None:
        """What is seen now; `resting` as for `treat`."""
        well = {id_ for id_, status in statuses.items() if in_rotation(status)}
        if well - self._well and self._fruitless:
            self.begin_anew()
        self._well = frozenset(well)
        self._out_since = {
            id_: self._out_since.get(id_, now)
            for id_, status in statuses.items()
            if id_ not in well and id_ not in resting and status.state is not State.EJECTED
        }

    def missed(self, now: float) -> set[str]:
        """Those that have been out for long enough."""
        return {id_ for id_, since in self._out_since.items() if now - since >= self._after_s}

    def was_fruitless(self, now: float, count: int, why: str) -> None:
        """So many newcomers were of no use, the last one for this reason."""
        self._fruitless += count
        self._why = why
        self._next_try_s = now + self._backoff.next_s(0.0)

    def begin_anew(self) -> None:
        """Forget what was of no use."""
        self._fruitless, self._why, self._next_try_s = 0, "", 0.0
        self._backoff.reset()

    def allowed(self, now: float, count: int) -> int:
        """How many newcomers may be started now."""
        if now < self._next_try_s:
            return 0
        return max(0, min(count, self._limit - self._fruitless))

    def status(self, now: float, missing: int, coming: int) -> HealingStatus:
        """In words, while so many newcomers are missing, and so many more on their way."""
        so_far = f"{self._fruitless} in a row were of no use; the last: {self._why}"
        if missing and self._fruitless >= self._limit:
            hint = "lbctl scale, rollout or up make it try again"
            return HealingStatus(HealingState.GAVE_UP, f"{so_far}\n{hint}")
        if coming:
            return HealingStatus(HealingState.REPLACING, f"{coming} on their way")
        if missing:
            within_s = max(0.0, self._next_try_s - now)
            return HealingStatus(
                HealingState.WAITING,
                f"the next replacement comes within {within_s:.0f} s; {so_far}",
            )
        if self._out_since:
            return HealingStatus(
                HealingState.WAITING,
                f"{len(self._out_since)} out of rotation; replaced after {self._after_s:g} s of it",
            )
        return HealingStatus(HealingState.IDLE)
