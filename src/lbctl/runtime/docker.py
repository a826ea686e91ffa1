"""The docker runtime: every backend is a container of its own.

Theory. The engine's list is the truth, in one request however many containers there are. Its
events are hints that the truth may have moved, with one exception: that a container was sent a
terminating signal is seen nowhere in the list, and a backend that is about to go must not get
another request. So `watch` reads, on one stream,

- container events of this project's backends, told by their labels, and
- network events of this project's network. These carry no labels of the container, which is
  why the stream is not filtered by label; the engine filters by type and action, and what is
  left is sorted here.

The engine begins to answer a moment before it begins to listen. It keeps its last events, and
asked for those since just before the request it leaves no gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from lbctl.core.allowlist import Shapes
from lbctl.core.text import printable
from lbctl.errors import EngineError, ImageError
from lbctl.model import LABEL_REVISION, EngineHealth
from lbctl.ports import Change
from lbctl.runtime.containers import (
    Names,
    backend_body,
    failed_its_checks,
    free_names,
    instance_of,
)
from lbctl.runtime.transport import EngineRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from lbctl.model import Instance, Release
    from lbctl.runtime.containers import Json
    from lbctl.runtime.engine import Engine

log = logging.getLogger(__name__)

_LINE_LIMIT: Final = 400  # characters of a line of a log that is quoted
_AT_A_TIME: Final = 8  # creations side by side: more of them make the engine no faster
_CONTAINER_ACTIONS: Final = (
    "start", "die", "kill", "stop", "pause", "unpause", "health_status", "oom", "destroy",
)  # fmt: skip
_NETWORK_ACTIONS: Final = ("connect", "disconnect")
_TERMINATING: Final = frozenset({signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGKILL})


def shapes(names: Names) -> Shapes:
    """How the runtime asks, which is all that a guard lets through."""
    prefix = names.backend(0).removesuffix("0")
    return Shapes(
        list_backends=names.filters("backend"),
        list_created={**names.filters("backend"), "status": ["created"]},
        list_names={"name": [f"^/?{re.escape(prefix)}[0-9]+$"]},
        events={
            "type": ["container", "network"],
            "event": [*_CONTAINER_ACTIONS, *_NETWORK_ACTIONS],
        },
        name_prefix=prefix,
    )


class DockerRuntime:
    """Backends of one project on one engine. Implements lbctl.ports.Runtime.

    The network and the token volume must be there before `start` (lbctl.deploy makes them).
    """

    name = "docker"

    def __init__(self, engine: Engine, project: str) -> None:
        """`close` closes the engine too."""
        self._engine = engine
        self._names = Names(project)
        self._shapes = shapes(self._names)

    async def recover(self) -> None:
        """Remove own backends that were created and never started: their maker died in between.
        Called before anybody starts others.
        """
        for container in await self._engine.containers(self._shapes.list_created):
            if LABEL_REVISION in (container.get("Labels") or {}):
                await self._engine.remove(container["Id"])

    async def close(self) -> None:
        await self._engine.close()

    async def start(self, count: int, release: Release) -> list[str]:
        body = await self._body(release)
        names = free_names(self._names, await self._taken_names(), count)
        slots = asyncio.Semaphore(_AT_A_TIME)
        made: set[str] = set()

        async def run(name: str) -> str:
            async with slots:
                backend = await self._create(name, body)
                made.add(backend)
                await self._engine.start(backend)
                return backend

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(run(name)) for name in names]
        except BaseException as error:
            await self._discard(made)
            if not isinstance(error, BaseExceptionGroup):
                raise
            first = error.exceptions[0]
            if isinstance(first, EngineRefusedError) and first.status == 404 and not made:
                raise ImageError(f"cannot start a backend: {first.message}") from None
            raise first from None
        return [task.result() for task in tasks]

    async def stop(self, instance_id: str, grace_s: float) -> None:
        try:
            await self._engine.stop(instance_id, grace_s)
        except EngineRefusedError as error:
            if error.status != 404:
                raise
        await self._engine.remove(instance_id)

    async def list(self) -> list[Instance]:
        containers = await self._engine.containers(self._shapes.list_backends)
        instances = (instance_of(container, self._names.network) for container in containers)
        return await asyncio.gather(*map(self._with_true_health, instances))

    async def last_lines(self, instance_id: str, count: int) -> Sequence[str]:
        try:
            lines = self._engine.logs(instance_id, follow=False, tail=count)
            texts = [line.decode(errors="replace").rstrip() async for line in lines]
        except EngineRefusedError as error:
            if error.status != 404:
                raise
            return []
        return [printable(text, _LINE_LIMIT) for text in texts]

    async def watch(self) -> AsyncIterator[Change]:
        since = f"{time.time():.9f}"
        async with self._engine.events(self._shapes.events, since) as events:
            yield Change("subscribed")
            async for event in events:
                change = self._change(event)
                if change is None:
                    continue
                if change.action == "kill" and not change.leaving:
                    change = await self._with_own_stop_signal(event, change)
                yield change

    async def _body(self, release: Release) -> Json:
        """The request that creates a backend."""
        return backend_body(self._names, release)

    async def _create(self, name: str, body: Json) -> str:
        """Make that request; returns the id."""
        return await self._engine.create(name, body)

    async def _with_true_health(self, instance: Instance) -> Instance:
        """The engine's list calls a container that was paused unhealthy from then on until a
        check passes (30 s with lbctl's own image): only what its checks said counts.
        """
        if instance.health is EngineHealth.UNHEALTHY:
            with contextlib.suppress(EngineRefusedError):  # it is gone by now
                if not failed_its_checks(await self._engine.inspect(instance.id)):
                    return replace(instance, health=EngineHealth.NONE)
        return instance

    async def published(self, container: str) -> dict[str, str]:
        """Where the host publishes a container's ports, "8080/tcp": "0.0.0.0:8080" for one.
        Nothing for a container that the engine does not know, or does not tell of. Raises
        EngineError or EngineUnavailableError where it does not answer.
        """
        try:
            ports = (await self._engine.inspect(container))["NetworkSettings"]["Ports"]
        except EngineRefusedError:
            return {}
        return {
            port: f"{places[0]['HostIp'] or '0.0.0.0'}:{places[0]['HostPort']}"
            for port, places in ports.items()
            if places
        }

    async def _taken_names(self) -> set[str]:
        """Names of this project's backends on the engine, whatever their labels say."""
        containers = await self._engine.containers(self._shapes.list_names)
        return {name.removeprefix("/") for found in containers for name in found["Names"]}

    async def _discard(self, backends: set[str]) -> None:
        """Remove half-made backends; what cannot be removed is left to the next scaling."""
        results = await asyncio.gather(
            *(self._engine.remove(backend) for backend in backends), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                log.warning("a half-made backend is left: %s", result)

    def _change(self, event: Json) -> Change | None:
        """The hint in an event; None where it is not about this project.

        Raises EngineError at what no engine sends.
        """
        try:
            action = str(event["Action"])
            actor, attributes = str(event["Actor"]["ID"]), event["Actor"]["Attributes"] or {}
            if event["Type"] == "network":
                ours = attributes.get("name") == self._names.network
                return Change(action, attributes.get("container", "")) if ours else None
            labels = self._names.labels("backend")
            if any(attributes.get(label) != value for label, value in labels.items()):
                return None
            # "health_status: healthy"; exec_create and its like carry a command there.
            action = action.partition(":")[0]
            if action not in _CONTAINER_ACTIONS:
                return None
            leaving = action == "kill" and _signal(attributes["signal"]) in _TERMINATING
        except (KeyError, TypeError, AttributeError) as error:
            raise EngineError(
                f"the engine's event stream is garbage: {printable(repr(event), 80)}"
            ) from error
        return Change(action, actor, leaving)

    async def _with_own_stop_signal(self, event: Json, change: Change) -> Change:
        """Whether a signal that is harmless to most is what makes this container stop (httpd's
        image has SIGWINCH). Asked of the engine, since neither event nor list tells.
        """
        with contextlib.suppress(EngineError):
            facts = await self._engine.inspect(change.id)
            own = facts["Config"].get("StopSignal") or "SIGTERM"
            sent = _signal(event["Actor"]["Attributes"]["signal"])
            return Change(change.action, change.id, leaving=sent == _signal(own))
        return change


def _signal(text: str) -> int:
    """A signal's number, from "15", "TERM" or "SIGTERM"; 0 for what is none."""
    if text.isdecimal():
        return int(text)
    name = text.upper()
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        return 0
