"""The workers of one configuration: as many as it asks for, each on a seat of their board."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from lbctl.core.pulse import Pulse
from lbctl.process.board import Board
from lbctl.process.children import Child
from lbctl.process.ledgers import Ledgers

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.certificates import Credentials
    from lbctl.config import Config
    from lbctl.process.ledgers import Rates


def worker_count(config: Config) -> int:
    """One a CPU, if nobody says otherwise."""
    return config.workers or len(os.sched_getaffinity(0))


class Crew:
    """Owned by the supervisor, which starts, signals and reaps the workers.

    A crew is `settled` as soon as it serves. Before that, a worker that ends is not started
    again: it is a reason to keep the crew of before.
    """

    def __init__(
        self,
        config: Config,
        lb: str,
        rates: Rates,
        body: Callable[[Crew, int, str], None],
        credentials: Credentials | None = None,
    ) -> None:
        """`body(crew, seat, name)` is what runs in a worker's process."""
        self.config = config
        self.credentials = credentials
        self.settled = False
        self.board = Board(worker_count(config))
        self.ledgers = Ledgers(rates, worker_count(config))
        names = [f"{lb}/worker-{n}" if lb else f"worker-{n}" for n in range(worker_count(config))]
        self.workers = [
            Child("worker", name, partial(body, self, seat, name))
            for seat, name in enumerate(names)
        ]

    @property
    def ready(self) -> bool:
        """Whether all of them accept connections."""
        seats = range(len(self.workers))
        return self.alive == self.workers and all(map(self.board.is_ready, seats))

    @property
    def alive(self) -> list[Child]:
        return [worker for worker in self.workers if worker.alive]

    def ended(self, worker: Child) -> None:
        """One of them is gone; its seat is free."""
        seat = self.workers.index(worker)
        self.board.vacate(seat)
        if self.config.limits.client_connections:
            self.ledgers.vacate(seat)

    def pulses(self) -> list[tuple[Child, Pulse]]:
        """The heartbeats of those that live."""
        return [
            (worker, Pulse(worker.started_s, self.board.beat_s(seat)))
            for seat, worker in enumerate(self.workers)
            if worker.alive
        ]

    def forget(self) -> None:
        """For a process that is to know no key."""
        self.credentials = None

    def dismiss(self) -> None:
        """None of them is started again; what becomes of those that run is the caller's."""
        for worker in self.workers:
            worker.wanted = False
