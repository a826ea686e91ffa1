"""`lbctl up` and `lbctl scale`: to a wish, and back when it is true."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lbctl.cli import install, resolve
from lbctl.cli.client import (
    AdminClient,
    NoAnswerError,
    backends_url,
    controllers,
    lbs_of,
    redirects,
)
from lbctl.cli.options import OF_UP, flag
from lbctl.cli.progress import watched
from lbctl.config import Deploy, changeable, overlay, settings_of
from lbctl.core.iplist import address_key
from lbctl.deploy import StackOptions, Unwatched
from lbctl.errors import (
    DeadlineError,
    EngineUnavailableError,
    ImageError,
    MachineError,
    OperationError,
    UsageError,
)
from lbctl.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from lbctl.cli.client import Status
    from lbctl.cli.screen import Screen, Steps
    from lbctl.cli.session import Session
    from lbctl.config import Config
    from lbctl.deploy import FoundStack, Progress, Stack

NEW_STACK_REPLICAS = 3
_WELL_WITHIN_S = 30.0
_FOLLOWS_S = 10.0  # a controller needs a second
_TOKEN_RETRY_S = 0.05
_END_INTERVAL_S = 1.0  # between two looks whether the stack is still there
_SCALE_MARGIN_S = 10.0  # the lb gives up first, and says why


async def up(
    session: Session, settings: Config, *, build: bool, may_install: bool, as_json: bool
) -> int:
    """Start what is missing; return when every backend is in rotation.

    With `may_install`, an nginx is installed where that is what the machine lacks.
    """
    screen = session.screen
    settings = _with_redirect_port(settings)
    if settings.tls.tls_redirect == "on" and not settings.tls.on:
        screen.tell("nothing is redirected: there is no TLS without --tls-dir or --tls-cert")
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

    async def fill(stack: Stack, found: FoundStack) -> int:
        work = _fill(screen, stack, found, settings, as_json=as_json)
        return await _unless_ended(stack, found, work)

    async with session.stacks(settings) as (facts, stacks):
        choice = choose(facts, resolve.for_up)
        try:
            found = await start(stacks, choice)
        except ImageError as error:
            if not _may_fall_back(facts, settings, build=build):
                raise
            why_not_docker, *log_of_build = str(error).splitlines()
            for line in log_of_build:
                screen.tell(line)
            choice = choose(facts, partial(resolve.or_local, why_not_docker=why_not_docker))
            found = await start(stacks, choice)
        stack = stacks[choice.runtime]
        try:
            return await fill(stack, found)
        except NoAnswerError as error:
            # Another `up` may have moved it; else it is whole, and this changes nothing.
            screen.tell(f"{error}; once more")
        return await fill(stack, await start(stacks, choice))


async def _unless_ended(stack: Stack, found: FoundStack, work: Coroutine[Any, Any, int]) -> int:
    """What `work` returns or raises; OperationError where somebody ends the stack meanwhile:
    whoever comes last has his way.
    """
    working = asyncio.ensure_future(work)
    try:
        while not working.done():
            await asyncio.wait((working,), timeout=_END_INTERVAL_S)
            failed = working.done() and isinstance(working.exception(), OperationError)
            if (failed or not working.done()) and await _is_ended(stack, ending=failed):
                raise OperationError(
                    f"project {found.project!r} was ended while it started; "
                    "lbctl up starts it again"
                )
        return working.result()
    finally:
        working.cancel()
        await asyncio.wait((working,))


async def _is_ended(stack: Stack, *, ending: bool) -> bool:
    """Whether nothing of it is left; with `ending` who may be at work on it is waited for."""
    with contextlib.suppress(EngineUnavailableError):
        return await (stack.settled(Unwatched()) if ending else stack.find()) is None
    return False


def _with_redirect_port(settings: Config) -> Config:
    """Redirects name the port that clients see, which a container does not know."""
    tls = settings.tls
    if not tls.on or tls.tls_redirect_port:
        return settings
    return replace(settings, tls=replace(tls, tls_redirect_port=tls.tls_port))


def _options(settings: Config, *, build: bool) -> StackOptions:
    # How many backends there are is told to the lb itself: it is no reason to replace it.
    return StackOptions(
        config=replace(settings, deploy=Deploy()),
        lbs=settings.deploy.lbs,
        lb_image=settings.deploy.lb_image,
        backend_image=settings.deploy.backend_image,
        build=build,
    )


def _may_fall_back(facts: resolve.Facts, settings: Config, *, build: bool) -> bool:
    """Nobody said anything that only containers can mean."""
    named = settings.deploy.lb_image or settings.deploy.backend_image or build
    return settings.runtime == "auto" and facts.docker is None and not named


async def _fill(
    screen: Screen, stack: Stack, found: FoundStack, settings: Config, *, as_json: bool
) -> int:
    async with AdminClient(found.admin.url) as client:
        with screen.steps("waiting for the lb") as steps:
            await client.healthy(_WELL_WITHIN_S)
            token = await _token(stack)
            status = await client.status()
            replicas = settings.deploy.replicas or _kept(status)
        if found.managed:
            await _bring_settings(screen, client, settings, token)
        with screen.steps("backends in rotation") as steps:
            await _scale(client, replicas, token, settings, steps)
        await _tell_missing(screen, client, found)
        status = await client.status()
        redirected, url = redirects(found, status), backends_url(found, status)
        served = await client.served_list(url)
    if as_json:
        screen.document(_document(found, status, redirects=redirected))
        return 0
    screen.say(f"serving  {found.traffic.url}  ({_count(status['in_rotation'])} in rotation)")
    if found.tls is not None:
        also = " (plain HTTP redirects)" if redirected else ""
        screen.say(f"TLS      {found.tls.secure_url}{also}")
    screen.say(f"admin    {found.admin.url}  (the dashboard; metrics: {found.admin.url}/metrics)")
    screen.say("")
    screen.say(f"$ curl -s{'k' if redirected else ''} {url}/")
    for line in served.splitlines():
        screen.say(line)
    return 0


async def _tell_missing(screen: Screen, client: AdminClient, found: FoundStack) -> None:
    for lb in await client.missing(found.lbs, _FOLLOWS_S):
        screen.tell(_does_not_follow(lb))


def _does_not_follow(lb: str) -> str:
    return f"lb {lb} runs, but does not follow the one that leads; see lbctl logs"


def _document(found: FoundStack, status: Status, *, redirects: bool) -> dict[str, Any]:
    """What `up --json` prints; docs/cli.md describes it."""
    return {
        "project": found.project,
        "runtime": found.runtime,
        "url": found.traffic.url,
        "tls_url": None if found.tls is None else found.tls.secure_url,
        "redirects": redirects,
        "admin_url": found.admin.url,
        "replicas": status["replicas"],
        "in_rotation": status["in_rotation"],
        "generation": status["generation"],
        "list": sorted(
            (row["ip"] for row in status["backends"] if row["state"] == State.UP.value),
            key=address_key,
        ),
    }


async def _bring_settings(
    screen: Screen, client: AdminClient, settings: Config, token: str
) -> None:
    """Have the running lb reload where it is set to something else."""
    wanted, present = changeable(settings_of(settings)), await client.settings(token)
    changed = [name for name, value in wanted.items() if present.get(name) != value]
    if changed:
        with screen.steps("reloading") as steps:
            steps.note(f"reloading with other settings: {', '.join(sorted(changed))}")
            await _reload(client, wanted, token, steps)


async def _reload(client: AdminClient, settings: dict[str, Any], token: str, steps: Steps) -> None:
    before = controllers(await client.status())
    lbs = lbs_of(before)

    def show(status: Status) -> None:
        renewed = lbs_of(controllers(status) - before) & lbs
        steps.part(len(renewed), len(lbs), f"lbs: {len(renewed)} of {len(lbs)}")

    async with watched(client, show):
        await client.reload(settings, token)


async def reload(session: Session, settings: Config, *, as_json: bool) -> int:
    """New workers, with what was given now, and else with the settings that they have.

    Raises UsageError for a flag that they cannot heed; elsewhere such settings are `up`'s.
    """
    _refuse_flags_of_up(session.flags)
    async with (
        session.running(settings) as (stack, found),
        AdminClient(found.admin.url) as client,
    ):
        token = await stack.admin_token()
        began_s = time.monotonic()
        with session.screen.steps("reloading") as steps:
            await _reload(client, changeable(session.given()), token, steps)
        took_s = time.monotonic() - began_s
        await _tell_missing(session.screen, client, found)
        settings_now = (await client.status())["settings"] if as_json else {}
    if as_json:
        session.screen.document({"settings": settings_now, "took_s": round(took_s, 3)})
    else:
        session.screen.say(f"reloaded in {took_s:.1f} s")
    return 0


def _refuse_flags_of_up(flags: Mapping[str, Any]) -> None:
    if others := flags.keys() & OF_UP:
        named = ", ".join(map(flag, sorted(others)))
        raise UsageError(f"lbctl reload does not change {named}: lbctl up does")


async def upgrade(session: Session, settings: Config, *, build: bool, as_json: bool) -> int:
    """New lb containers, one after the other, with the settings and ports of the old ones."""
    async with (
        session.running(settings) as (stack, found),
        AdminClient(found.admin.url) as client,
    ):
        began_s = time.monotonic()
        with session.screen.steps("upgrading") as steps:
            after = await replace_lbs(stack, found, client, settings, steps, build=build)
        took_s = time.monotonic() - began_s
    if as_json:
        session.screen.document({"lb": after.lb, "took_s": round(took_s, 3)})
    else:
        session.screen.say(f"upgraded {after.lb} in {took_s:.1f} s")
    return 0


async def replace_lbs(
    stack: Stack,
    found: FoundStack,
    client: AdminClient,
    settings: Config,
    progress: Progress | None = None,
    *,
    build: bool = False,
) -> FoundStack:
    """By new ones with the settings and ports that the old ones have; return when all is well."""
    now = changeable(await client.settings(await stack.admin_token()))
    kept = replace(
        overlay(settings, now, "settings"),
        bind=found.traffic.host, port=found.traffic.port,
        admin_bind=found.admin.host, admin_port=found.admin.port,
    )  # fmt: skip
    after = await stack.upgrade(_options(kept, build=build), progress or Unwatched())
    await client.healthy(_WELL_WITHIN_S)
    if missing := await client.missing(after.lbs, _FOLLOWS_S):
        raise DeadlineError("\n".join(map(_does_not_follow, missing)))
    return after


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


async def scale(session: Session, settings: Config, replicas: int, *, as_json: bool) -> int:
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
        status = await client.status()
        resting = replicas - status["in_rotation"]
    if as_json:
        session.screen.document(
            {
                "replicas": replicas,
                "previous": before,
                "in_rotation": status["in_rotation"],
                "generation": status["generation"],
                "took_s": round(took_s, 3),
            }
        )
        return 0
    session.screen.say(f"{before} -> {replicas} in {took_s:.1f} s")
    if resting > 0:
        session.screen.tell(f"{resting} of them drained by hand; lbctl undrain lets them in")
    return 0


async def _scale(
    client: AdminClient, replicas: int, token: str, settings: Config, steps: Steps
) -> None:
    patience_s = settings.control.scale_timeout_s + _SCALE_MARGIN_S

    def show(status: Status) -> None:
        count = status["in_rotation"]
        steps.part(count, replicas, f"{count} of {replicas}")

    async with watched(client, show):
        await client.scale(replicas, token, patience_s)


def _count(backends: int) -> str:
    return f"{backends} backend" if backends == 1 else f"{backends} backends"
