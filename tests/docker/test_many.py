"""Ten and fifty backends in containers: how long joining takes, what it takes of the machine."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docker.conftest import docker
from tests.docker.stage import Stage, new_cli, staged
from tests.support.deadlines import scaled
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker

JOINS = 5


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    ensure_images()
    with staged(new_cli()) as stage:
        stage.cli.ok("up", "--replicas", "10")
        yield stage


def backends(count: int) -> set[str]:
    return {f"backend-{number}" for number in range(1, count + 1)}


def passed_at(stage: Stage, name: str) -> float:
    """When a backend passed its first check, as the lb's log says (seconds since the epoch)."""
    for line in reversed(docker("logs", "--since", "60s", stage.leader).splitlines()):
        entry = json.loads(line)
        if entry.get("message") == f"{stage.full(name)} passed its first check":
            return datetime.fromisoformat(entry["time"]).timestamp()
    raise AssertionError(f"the lb does not say when {name} passed")


def replaced_at(stage: Stage, count: int) -> float:
    """When the last of so many backends replaced its list: the clock is the machine's, and all
    containers' own.
    """
    names = map(stage.full, backends(count))
    pids = docker("inspect", "-f", "{{.State.Pid}}", *names).split()
    return max(
        Path("/proc", str(pid), "root", "srv/lbctl/www/ips.txt").stat().st_mtime for pid in pids
    )


def joins_ms(stage: Stage, count: int, times: int) -> list[float]:
    """From the first passed check of a newcomer to the list on all. It takes the name of the one
    that left, which is the newest: of those that were started together it may be any.
    """
    durations = []
    for _ in range(times):
        stage.cli.ok("scale", str(count - 1))
        (newcomer,) = backends(count) - set(stage.names)
        stage.cli.ok("scale", str(count))
        stage.settle(backends(count))
        durations.append((replaced_at(stage, count) - passed_at(stage, newcomer)) * 1000)
    assert min(durations) > 0, durations
    return durations


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look into the containers' files")
def test_ten_lists_are_right_within_100_ms_of_a_newcomers_first_passed_check(
    stage: Stage,
) -> None:
    durations = joins_ms(stage, 10, JOINS)
    median = statistics.median(durations)
    print(
        f"\n10 containers, {JOINS} joins, from the first passed check to the list on all: "
        f"median {median:.0f} ms, worst {max(durations):.0f} ms"
    )
    assert median < scaled(100)


def test_fifty_backends(stage: Stage) -> None:
    before = len(stage.names)
    began = time.monotonic()
    stage.cli.ok("scale", "50")
    print(f"\nlbctl scale {before} -> 50: {time.monotonic() - began:.1f} s")
    stage.settle(backends(50))

    began = time.monotonic()
    stage.cli.ok("scale", "51")
    took_ms = (time.monotonic() - began) * 1000
    print(f"lbctl scale 50 -> 51: {took_ms:.0f} ms")
    stage.settle(backends(51))
    if os.geteuid() == 0:
        join_ms = (replaced_at(stage, 51) - passed_at(stage, "backend-51")) * 1000
        print(f"of it from the first passed check to the list on all 51: {join_ms:.0f} ms")

    lb, backend = used_bytes(stage.leader), used_bytes(stage.full("backend-1"))
    print(f"memory: {backend / 2**20:.1f} MiB a backend, {lb / 2**20:.0f} MiB the lb")
    assert backend < 16 << 20
    assert lb < 256 << 20


def used_bytes(container: str) -> int:
    """What a container uses of its memory, as `docker stats` counts it."""
    said = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container)
    found = re.match(r"([\d.]+)([KMG])iB", said)
    assert found, said
    return int(float(found[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[found[2]])
