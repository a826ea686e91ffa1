"""Reconciler, prober and publisher with real nginx processes behind them."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from lbctl.config import Control, Health
from lbctl.control.http import HttpListWriter, HttpProbe
from lbctl.control.reconciler import Reconciler
from lbctl.core.credentials import name_of, token_of
from lbctl.model import Backend, ControlStats, Instance, Phase, State
from tests.support.credentials import admit
from tests.support.deadlines import eventually, scaled
from tests.support.fakes import FakeRoutes, MemoryStore
from tests.support.nginx import NGINX, RunningNginx, ask, running_nginx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [
    pytest.mark.nginx,
    pytest.mark.skipif(NGINX is None, reason="no nginx on this machine"),
]

IPS = ("127.82.2.9", "127.82.2.10", "127.82.2.11")
SECRET = "5a" * 32
HEALTH = Health(probe_interval_s=0.1, first_probe_interval_s=0.02)
CONTROL = Control(publish_retry_min_s=0.02, publish_retry_max_s=0.1, repair_interval_s=0.3)


@pytest.fixture
def fleet() -> Iterator[list[RunningNginx]]:
    """Three backends, each of which knows its own token."""
    with ExitStack() as stack:
        fleet = [stack.enter_context(running_nginx(ip)) for ip in IPS]
        for nginx in fleet:
            admit(nginx.site.tokens, token_of(SECRET, backend_of(nginx)), nginx.ip)
        yield fleet


def backend_of(nginx: RunningNginx) -> Backend:
    return Backend(nginx.ip, f"backend-{nginx.ip}", nginx.ip)


def instances(fleet: list[RunningNginx]) -> list[Instance]:
    return [Instance(n.ip, f"backend-{n.ip}", Phase.RUNNING, backend_of(n)) for n in fleet]


def served(nginx: RunningNginx) -> list[str]:
    """The list as a client gets it, in both forms."""
    text = ask(nginx.ip, 8080, "GET", "/").body.decode().splitlines()
    document = json.loads(ask(nginx.ip, 8080, "GET", "/ips.json").body)
    assert [entry["ip"] for entry in document["backends"]] == text
    return text


@asynccontextmanager
async def controlling(fleet: list[RunningNginx]) -> AsyncIterator[tuple[Reconciler, FakeRoutes]]:
    routes = FakeRoutes()
    probe = HttpProbe(Health(probe_timeout_s=scaled(1.0)))
    writer = HttpListWriter(scaled(1.0), partial(token_of, SECRET))
    reconciler = Reconciler(
        HEALTH,
        CONTROL,
        probe=probe,
        writer=writer,
        routes=routes,
        store=MemoryStore(),
        stats=ControlStats(),
    )
    task = asyncio.create_task(reconciler.run())
    try:
        reconciler.observe(instances(fleet))
        yield reconciler, routes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await probe.close()
        await writer.close()


async def test_every_backend_serves_exactly_who_is_in_rotation(fleet: list[RunningNginx]) -> None:
    async with controlling(fleet) as (reconciler, routes):
        await eventually(lambda: len(routes.routed) == 3 and not reconciler.lagging())
        for nginx in fleet:
            assert served(nginx) == list(IPS)
        reconciler.observe(instances(fleet[1:]))
        await eventually(lambda: not reconciler.lagging())
        for nginx in fleet[1:]:
            assert served(nginx) == list(IPS[1:])


async def test_one_that_dies_is_off_the_list_of_the_others(fleet: list[RunningNginx]) -> None:
    async with controlling(fleet) as (reconciler, routes):
        await eventually(lambda: len(routes.routed) == 3)
        fleet[0].process.send_signal(signal.SIGTERM)
        await eventually(lambda: len(routes.routed) == 2 and not reconciler.lagging())
        rows = {row.ip: row for row in reconciler.backends()}
        assert rows[IPS[0]].state is State.DOWN
        assert rows[IPS[0]].reason == "its checks fail: connection refused"
        assert served(fleet[1]) == served(fleet[2]) == list(IPS[1:])


async def test_a_list_that_was_lost_is_written_again(fleet: list[RunningNginx]) -> None:
    async with controlling(fleet) as (reconciler, routes):
        await eventually(lambda: len(routes.routed) == 3 and not reconciler.lagging())
        generation = reconciler.membership().generation
        fleet[1].list_file.write_bytes(b"")
        await eventually(lambda: served(fleet[1]) == list(IPS))
        assert reconciler.membership().generation == generation


async def test_one_that_refuses_the_token_stays_out(fleet: list[RunningNginx]) -> None:
    token = token_of(SECRET, backend_of(fleet[2]))
    (fleet[2].site.tokens / name_of(token, IPS[2])).unlink()
    async with controlling(fleet) as (reconciler, routes):
        await eventually(lambda: len(routes.routed) == 2 and not reconciler.lagging())
        rows = {row.ip: row for row in reconciler.backends()}
        assert rows[IPS[2]].state is State.ENROLLING
        assert rows[IPS[2]].reason.startswith("it does not take the list: it refused its token: ")
        assert served(fleet[0]) == list(IPS[:2])
        assert served(fleet[2]) == []
        admit(fleet[2].site.tokens, token, IPS[2])
        await eventually(lambda: len(routes.routed) == 3 and not reconciler.lagging())
        assert served(fleet[2]) == list(IPS)
