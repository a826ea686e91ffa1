"""A short version of the faults script, on a real engine: lbctl keeps its promise, and the script
would notice if it did not, because a peer fails at the same.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from benchmarks.faults.__main__ import TOOLS
from benchmarks.faults.disturbances import DISTURBANCES
from benchmarks.faults.entries import entry
from benchmarks.faults.run import Timing, run

from lbctl.errors import MachineError
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from benchmarks.faults.disturbances import Disturbance
    from benchmarks.faults.ledger import Figures
    from benchmarks.faults.stacks import Entry

pytestmark = [pytest.mark.docker, pytest.mark.slow]

BRIEF = Timing(calm_s=1.0, watch_s=6.0, after_s=3.0)
PROMISED = [one for one in DISTURBANCES if one.name in ("stop", "kill")]
by_name = pytest.mark.parametrize("disturbance", PROMISED, ids=lambda one: one.name)


@pytest.fixture(scope="module", autouse=True)
def _images() -> None:
    ensure_images()


def cost(stack: Entry, disturbance: Disturbance) -> Figures:
    found = asyncio.run(run(stack.make(), disturbance, BRIEF))
    print(f"\n[{stack.title} at {disturbance.title}] {found}", end="")
    return found


@by_name
def test_a_backend_that_goes_costs_no_get(disturbance: Disturbance) -> None:
    found = cost(entry("lbctl", TOOLS), disturbance)
    assert found.lost == 0
    assert found.requests >= 0.9 * BRIEF.rate_per_s * BRIEF.watch_s, "clients were held up"


@by_name
def test_the_script_sees_a_peer_lose_requests(disturbance: Disturbance) -> None:
    try:
        peer = entry("traefik", TOOLS)
    except MachineError as error:
        pytest.skip(str(error))
    assert cost(peer, disturbance).lost > 0
