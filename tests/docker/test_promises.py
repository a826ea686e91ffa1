"""Promises that `lbctl verify` does not put to the test: what takes more backends than it would
start on somebody's machine, or other settings than the stack's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docker.stage import Stage, new_cli, staged
from tests.support.cli import Wrk, get
from tests.support.deadlines import until
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker

CONNECTIONS = 64
THREE = frozenset({"backend-1", "backend-2", "backend-3"})


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    ensure_images()
    with staged(new_cli(LBCTL_PROBE_INTERVAL_S="0.3")) as stage:
        stage.cli.ok("up")
        stage.settle(THREE)
        yield stage


def test_from_3_to_10_to_2_costs_no_request(stage: Stage) -> None:
    load = Wrk(stage.cli.url + "/", seconds=12, connections=CONNECTIONS)
    for count in (10, 2, 3):
        stage.cli.ok("scale", str(count))
        stage.settle(stage.names)
        assert len(stage.names) == count
    said = load.finish()
    assert said.failed == 0, said.text


def test_checks_that_all_fail_at_once_cost_no_request(stage: Stage) -> None:
    """What is expected of them changes, not the backends: they answer as before."""
    until(stage.both_lbs)
    names = stage.names
    load = Wrk(stage.cli.url + "/", seconds=8, connections=CONNECTIONS)
    stage.cli.ok("reload", "--probe-status", "299")
    # They fall one after the other; with the last of them all are let in again.
    until(lambda: [("its checks fail" in one) for one in reasons(stage)] == [True] * 3, within=20)
    assert stage.names == names
    until(lambda: len(get(stage.cli.url + "/ips.txt").split()) == len(names))
    said = load.finish()
    assert said.failed == 0, said.text
    stage.cli.ok("reload", "--probe-status", "200-299")
    until(lambda: reasons(stage) == [""] * 3, within=20)
    assert stage.names == names


def reasons(stage: Stage) -> list[str]:
    """What is said of each backend in rotation; "" where all is well."""
    return [row["reason"] for row in stage.cli.backends()]
