"""`lbctl up` and `lbctl scale`: to a wish, and back when it is true."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lbctl.cli import install, resolve
from lbctl.cli.client import AdminClient
from lbctl.config import Deploy
from lbctl.deploy import StackOptions
from lbctl.errors import ImageError, LbctlError, MachineError, OperationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from lbctl.cli.client import Status
    from lbctl.cli.screen import Screen, Steps
    from lbctl.cli.session import Session
    from lbctl.config import Config
    from lbctl.deploy import FoundStack, Stack

NEW_STACK_REPLICAS = 3
_WELL_WITHIN_S = 30.0
_TOKEN_RETRY_S = 0.05
_LOOK_INTERVAL_S = 0.2
_SCALE_MARGIN_S = 10.0  # the lb gives up first, and says why


async def up(session: Session, settings: Config, *, build: bool, may_install: bool) -> int:
    """Start what is missing; return when every backend is in rotation.

    With `may_install`, an nginx is installed where that is what the machine lacks.
    """
    screen = session.screen
    options = _options(settings, build=build)

    async def start(stacks: dict[str, Stack], choice: resolve.Choice) -> FoundStack:
        screen.tell(f"runtime: {choice.runtime} ({choice.why})")
        with screen.steps("starting") as steps:
            return await stacks[choice.runtime].up(options, steps)

    def choose(
        facts: resolve.Facts, decide: Callable[[resolve.Facts], resolve.Choice]
    ) -> resolve.Choice:
        try:
            return decide(facts)
        except MachineError:
            lacks_nginx = facts.nginx_problem and settings.runtime != "docker"
            if not (lacks_nginx and may_install and install.may_install()):
                raise
        install.nginx(screen)
        return decide(replace(facts, nginx_problem=session.runtimes.nginx_problem()))

    async with session.stacks(settings) as (facts, stacks):
        choice = choose(facts, resolve.for_up)
        try:
            found = await start(stacks, choice)
        except ImageError as error:
            if not _may_fall_back(facts, settings, build=build):
                raise
            why_not_docker = str(error).partition("\n")[0]
            choice = choose(facts, partial(resolve.or_local, why_not_docker=why_not_docker))
            found = await start(stacks, choice)
        return await _fill(screen, stacks[choice.runtime], found, settings)


def _options(settings: Config, *, build: bool) -> StackOptions:
    # How many backends there are is told to the lb itself: it is no reason to replace it.
    return StackOptions(
        config=replace(settings, deploy=Deploy()),
        lb_image=settings.deploy.lb_image,
        backend_image=settings.deploy.backend_image,
        build=build,
    )


def _may_fall_back(facts: resolve.Facts, settings: Config, *, build: bool) -> bool:
    """Nobody said anything that only containers can mean."""
    named = settings.deploy.lb_image or settings.deploy.backend_image or build
    return settings.runtime == "auto" and facts.docker is None and not named


async def _fill(screen: Screen, stack: Stack, found: FoundStack, settings: Config) -> int:
    async with AdminClient(found.admin.url) as client:
        with screen.steps("waiting for the lb") as steps:
            await client.healthy(_WELL_WITHIN_S)
            token = await _token(stack)
            replicas = settings.deploy.replicas or _kept(await client.status())
        with screen.steps("backends in rotation") as steps:
            await _scale(client, replicas, token, settings, steps)
        status = await client.status()
        served = await client.served_list(found.traffic.url)
    screen.say(f"serving  {found.traffic.url}  ({_count(status['in_rotation'])} in rotation)")
    screen.say(f"admin    {found.admin.url}  (metrics: {found.admin.url}/metrics)")
    screen.say("")
    screen.say(f"$ curl -s {found.traffic.url}/")
    for line in served.splitlines():
        screen.say(line)
    return 0


def _kept(status: Status) -> int:
    """How many backends to have where nobody says: as many as there are, if there are any."""
    if status["replicas"] is not None:
        return status["replicas"]
    known = sum(backend["state"] != "invalid" for backend in status["backends"])
    return known or NEW_STACK_REPLICAS


async def _token(stack: Stack) -> str:
    """The admin token, as soon as the lb has made it."""
    end_s = time.monotonic() + _WELL_WITHIN_S
    while True:
        try:
            return await stack.admin_token()
        except OperationError:
            if time.monotonic() > end_s:
                raise
        await asyncio.sleep(_TOKEN_RETRY_S)


async def scale(session: Session, settings: Config, replicas: int) -> int:
    """To `replicas` backends; return when every list says so."""
    async with (
        session.running(settings) as (stack, found),
        AdminClient(found.admin.url) as client,
    ):
        token = await stack.admin_token()
        before = (await client.status())["in_rotation"]
        began_s = time.monotonic()
        with session.screen.steps("backends in rotation") as steps:
            await _scale(client, replicas, token, settings, steps)
        took_s = time.monotonic() - began_s
    session.screen.say(f"{before} -> {replicas} in {took_s:.1f} s")
    return 0


async def _scale(
    client: AdminClient, replicas: int, token: str, settings: Config, steps: Steps
) -> None:
    patience_s = settings.control.scale_timeout_s + _SCALE_MARGIN_S
    async with _watched(client, replicas, steps):
        await client.scale(replicas, token, patience_s)


@contextlib.asynccontextmanager
async def _watched(client: AdminClient, replicas: int, steps: Steps) -> AsyncIterator[None]:
    """Show how far it is while the block runs."""

    async def look() -> None:
        while True:
            # A look that fails is no reason to give up: the change has its own answer.
            with contextlib.suppress(LbctlError):
                status = await client.status()
                steps.state(f"{status['in_rotation']} of {replicas}")
            await asyncio.sleep(_LOOK_INTERVAL_S)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


def _count(backends: int) -> str:
    return f"{backends} backend" if backends == 1 else f"{backends} backends"
