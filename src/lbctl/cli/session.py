"""One run of the command: its configuration, its screen, and the stack it works on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from lbctl import config
from lbctl.cli import resolve
from lbctl.cli.screen import Screen
from lbctl.errors import MachineError
from lbctl.runtime.nginx import find_nginx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from lbctl.config import Config
    from lbctl.deploy import FoundStack, Stack

INTERRUPTED_STATUS = 130  # 128 + SIGINT, as shells count it


class ThisMachine:
    """The runtimes of the machine the command runs on. Implements resolve.Runtimes.

    It imports what it opens when it opens it: `serve` becomes the lb's supervisor, which has no
    use for an engine's client.
    """

    async def docker(self, project: str) -> Stack:
        from lbctl.deploy.docker import DockerStack
        from lbctl.runtime.engine import Engine

        engine = await Engine.connect()
        try:
            return DockerStack(project, engine)
        except BaseException:
            await engine.close()
            raise

    async def local(self, project: str) -> Stack:
        from lbctl.deploy.local import LocalStack

        return LocalStack(project)

    def nginx_problem(self) -> str:
        try:
            find_nginx()
        except MachineError as error:
            return str(error)
        return ""


@contextlib.asynccontextmanager
async def ended_by_sigterm() -> AsyncIterator[None]:
    """SIGTERM ends the block as Ctrl-C does: what is to be put back is put back first."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    told = asyncio.Event()

    def end() -> None:
        told.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        yield
    except asyncio.CancelledError:
        if told.is_set():
            raise click.Abort from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@dataclass(slots=True)
class Session:
    """Shared by the command and its subcommand; `flags` are those of both, merged."""

    screen: Screen = field(default_factory=Screen)
    runtimes: resolve.Runtimes = field(default_factory=ThisMachine)
    debug: bool = False
    flags: dict[str, Any] = field(default_factory=dict)

    def configure(self, **flags: Any) -> Config:
        """The configuration with the flags given; None is not given. Raises UsageError."""
        self.flags |= {name: value for name, value in flags.items() if value is not None}
        return config.load(self.flags)

    def given(self) -> dict[str, Any]:
        """What of it somebody has set: by a flag, in the environment or in the file."""
        return config.given(self.flags)

    def run(self, job: Coroutine[Any, Any, int]) -> None:
        """Run a command to its exit status. Ctrl-C ends it with one line."""
        try:
            status = asyncio.run(job)
        except KeyboardInterrupt:
            self.screen.tell("interrupted")
            status = INTERRUPTED_STATUS
        raise click.exceptions.Exit(status)

    @contextlib.asynccontextmanager
    async def stacks(
        self, settings: Config
    ) -> AsyncIterator[tuple[resolve.Facts, dict[str, Stack]]]:
        """What is on this machine, and the stacks that can be asked, by runtime."""
        facts, stacks = await resolve.survey(settings.project, settings.runtime, self.runtimes)
        try:
            yield facts, stacks
        finally:
            for stack in stacks.values():
                await stack.close()

    @contextlib.asynccontextmanager
    async def running(self, settings: Config) -> AsyncIterator[tuple[Stack, FoundStack]]:
        """The stack that runs. Raises OperationError that says how to start it."""
        async with self.stacks(settings) as (facts, stacks):
            found = resolve.running(facts)
            yield stacks[found.runtime], found
