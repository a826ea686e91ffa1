"""What is done to each stack, in the order of the tables."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.faults.engine import docker, kill_first_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.faults.stacks import Stack

SCALE, REPLACE = "scale", "replace"
RELOAD, KILL_WORKER, KILL = "reload", "kill-worker", "kill-balancer"
PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Disturbance:
    """`act` gets the stack, and the name of one of its `backends` containers: the victim, where
    there is one.
    """

    name: str
    title: str
    act: Callable[[Stack, str], None]
    backends: int = 4


def _stop(_: Stack, victim: str) -> None:
    docker("stop", victim)


def _kill(_: Stack, victim: str) -> None:
    docker("kill", victim)


def _kill_nginx(_: Stack, victim: str) -> None:
    kill_first_process(victim)


def _pause(_: Stack, victim: str) -> None:
    docker("pause", victim)
    time.sleep(PAUSE_S)
    docker("unpause", victim)


def _scale(stack: Stack, _: str) -> None:
    stack.scale(10)
    stack.scale(2)


DISTURBANCES = (
    Disturbance("stop", "docker stop of a backend", _stop),
    Disturbance("kill", "docker kill of a backend", _kill),
    Disturbance("kill-nginx", "kill -9 of a backend's nginx", _kill_nginx),
    Disturbance("pause", f"docker pause of a backend, for {PAUSE_S:g} s", _pause),
    Disturbance(SCALE, "scale 3 -> 10 -> 2", _scale, backends=3),
    Disturbance(REPLACE, "every backend replaced", lambda stack, _: stack.replace_all()),
    Disturbance(RELOAD, "reload of the balancer", lambda stack, _: stack.reload()),
    Disturbance(
        KILL_WORKER, "kill -9 of a worker of the balancer", lambda stack, _: stack.kill_worker()
    ),
    Disturbance(KILL, "kill -9 of the balancer", lambda stack, _: stack.kill()),
)
