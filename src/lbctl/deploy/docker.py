"""A stack on a Docker engine, as `lbctl up` makes it from outside: images, one network, two
volumes and the lb container. The backends are the lb's own affair; it is asked for them
through its admin port. Every object carries the label lbctl.project, and what carries it is
what `down` removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lbctl.config import LEAVES
from lbctl.core.text import printable
from lbctl.deploy import Address, FoundStack
from lbctl.deploy.images import ensure_images
from lbctl.deploy.listening import (
    check_addresses,
    engine_finds_out,
    refuse_listened,
    refuse_published,
)
from lbctl.deploy.logs import log_lines
from lbctl.errors import EngineError, OperationError, UsageError
from lbctl.model import LABEL_PROJECT
from lbctl.paths import CONTAINER
from lbctl.runtime.containers import (
    ADMIN_PORT,
    BACKEND_IMAGE,
    ENGINE_SOCKET,
    LB_IMAGE,
    LB_STOP_TIMEOUT_S,
    TRAFFIC_PORT,
    Names,
    Outside,
    lb_body,
    listed_name,
)
from lbctl.runtime.engine import EngineRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from lbctl.config import Config
    from lbctl.deploy import Progress, StackOptions
    from lbctl.runtime.containers import Json
    from lbctl.runtime.engine import Engine

log = logging.getLogger(__name__)

LABEL_DIGEST: Final = "lbctl.digest"
"""On an lb container that `up` made: tells whether one made now would be another."""

# Inside the container these are fixed; outside they are the published ports.
_OUTSIDE: Final = frozenset({"runtime", "bind", "port", "admin_bind", "admin_port"})
_RESERVED: Final = frozenset({"bridge", "host", "none", "default"})
_BACKEND_GRACE_S: Final = 3.0  # the lb is gone by then, and their clients with it
_AT_A_TIME: Final = 8


class DockerStack:
    """The stack of one project on one engine. Implements lbctl.deploy.Stack."""

    runtime = "docker"

    def __init__(self, project: str, engine: Engine) -> None:
        """`close` closes the engine too. Raises UsageError for a name Docker keeps to itself."""
        if project in _RESERVED:
            raise UsageError(f"project {project!r}: Docker has a network of its own of that name")
        self._names = Names(project)
        self._engine = engine

    async def close(self) -> None:
        await self._engine.close()

    async def find(self) -> FoundStack | None:
        lb = await self._lb()
        return None if lb is None else self._found(lb)

    async def up(self, options: StackOptions, progress: Progress) -> FoundStack:
        lb_ref = options.lb_image or LB_IMAGE
        backend_ref = options.backend_image or BACKEND_IMAGE
        wanted = _wanted(options.config)
        old = await self._lb()
        await self._refuse_strange_objects()
        await self._refuse_taken_ports(wanted, old)
        image_id = await ensure_images(self._engine, lb_ref, backend_ref, options.build, progress)

        settings = _settings(options.config) | {LEAVES["backend_image"].variable: backend_ref}
        body = lb_body(self._names, lb_ref, settings, self._outside(wanted))
        body["Labels"][LABEL_DIGEST] = _digest(body, image_id)
        if old is not None:
            difference = _difference(old, body, image_id)
            if not difference:
                return await self._keep(old, wanted, progress)
            progress.note(f"replacing {_name(old)}: {difference}")
        else:
            progress.note(f"starting {self._names.lb}")

        async with contextlib.AsyncExitStack() as undo:
            await self._ensure_surroundings(undo)
            new = await self._start_lb(body, old, wanted, undo)
            undo.pop_all()
        if old is not None:
            await self._engine.remove(old["Id"])
            if _name(new) != self._names.lb:
                await self._engine.rename(new["Id"], self._names.lb)
        return self._found(await self._engine.inspect(new["Id"]))

    async def down(self, progress: Progress) -> bool:
        lbs = await self._engine.containers(self._names.filters("lb"))
        if lbs:
            # First of all: as long as it runs, it may start backends.
            progress.note(f"stopping {', '.join(sorted(map(listed_name, lbs)))}")
            await self._end(lbs, LB_STOP_TIMEOUT_S)
        backends = await self._engine.containers(self._names.filters())
        if backends:
            progress.note(f"stopping {len(backends)} backend{'s' if len(backends) > 1 else ''}")
            await self._end(backends, _BACKEND_GRACE_S)
        there_was = bool(lbs or backends)
        network = await self._engine.network(self._names.network)
        if network is not None and self._is_ours(network):
            there_was = True
            await self._remove_network(network)
        for name in (self._names.token_volume, self._names.state_volume):
            volume = await self._engine.volume(name)
            if volume is not None and self._is_ours(volume):
                there_was = True
                await self._engine.remove_volume(name)
        return there_was

    async def admin_token(self) -> str:
        lb = await self._lb()
        if lb is None:
            raise OperationError(f"no stack of project {self._names.project} is here")
        try:
            raw = await self._engine.read_file(lb["Id"], str(CONTAINER.admin_token))
        except EngineRefusedError as error:
            if error.status != 404:
                raise
            raise OperationError(f"{_name(lb)} has not made its admin token yet") from None
        return raw.decode("ascii", errors="replace").strip()

    async def logs(self, follow: bool, tail: int) -> AsyncIterator[str]:
        containers = await self._engine.containers(self._names.filters())
        async for line in log_lines(self._engine, containers, follow=follow, tail=tail):
            yield line

    # What is there

    async def _lb(self) -> Json | None:
        """The lb container, as `inspect` shows it. Of two, which an interrupted replacement
        leaves, the one that runs.
        """
        lbs = await self._engine.containers(self._names.filters("lb"))
        if not lbs:
            return None
        lbs.sort(key=lambda lb: (lb["State"] != "running", listed_name(lb) != self._names.lb))
        return await self._engine.inspect(lbs[0]["Id"])

    def _found(self, lb: Json) -> FoundStack:
        return FoundStack(
            runtime=self.runtime,
            project=self._names.project,
            lb=_name(lb),
            running=_runs(lb),
            traffic=_published(lb, TRAFFIC_PORT),
            admin=_published(lb, ADMIN_PORT),
            image=printable(lb["Config"]["Image"]),
        )

    def _is_ours(self, thing: Json) -> bool:
        labels = thing.get("Labels") or {}
        return bool(labels.get(LABEL_PROJECT) == self._names.project)

    # What must not be

    async def _refuse_strange_objects(self) -> None:
        """Raise UsageError where somebody else's network or volume has a name of ours."""
        network = await self._engine.network(self._names.network)
        if network is not None and not self._is_ours(network):
            raise self._strange("network", self._names.network)
        for name in (self._names.token_volume, self._names.state_volume):
            volume = await self._engine.volume(name)
            if volume is not None and not self._is_ours(volume):
                raise self._strange("volume", name)

    def _strange(self, kind: str, name: str) -> UsageError:
        return UsageError(
            f"there is a Docker {kind} {name} that is not lbctl's: choose another --project, "
            f"or remove it (docker {kind} rm {name})"
        )

    async def _refuse_taken_ports(self, wanted: dict[str, Address], old: Json | None) -> None:
        check_addresses(wanted)
        own = old["Id"] if old is not None else ""
        containers = await self._engine.containers({})
        refuse_published(wanted, [other for other in containers if other["Id"] != own])
        held: set[int] = set()
        if old is not None and _runs(old):
            held = {_published(old, port).port for port in (TRAFFIC_PORT, ADMIN_PORT)}
        if self._engine.socket is not None:  # it is this machine's engine
            refuse_listened({f: a for f, a in wanted.items() if a.port not in held})

    # How it is made

    def _outside(self, wanted: dict[str, Address]) -> Outside:
        socket = self._engine.socket
        # /var/run is most often a link to /run: the same socket must look the same.
        source = ENGINE_SOCKET if socket is None else str(Path(socket).resolve())
        traffic, admin = wanted.values()
        return Outside({TRAFFIC_PORT: traffic, ADMIN_PORT: admin}, source)

    async def _keep(self, lb: Json, wanted: dict[str, Address], progress: Progress) -> FoundStack:
        if LABEL_DIGEST not in lb["Config"]["Labels"]:
            progress.note(f"{_name(lb)} was not made by `lbctl up`: it stays as it is")
        if not _runs(lb):
            progress.note(f"starting {_name(lb)}")
            with engine_finds_out(wanted):
                await self._engine.start(lb["Id"])
            lb = await self._engine.inspect(lb["Id"])
        return self._found(lb)

    async def _ensure_surroundings(self, undo: contextlib.AsyncExitStack) -> None:
        """The network and the volumes; those that this makes are undone again."""
        names, labels = self._names, self._names.labels()
        if await self._engine.network(names.network) is None:
            network = await self._engine.create_network(names.network, labels)
            undo.push_async_callback(_quietly, self._engine.remove_network, network)
        for name in (names.token_volume, names.state_volume):
            if await self._engine.volume(name) is None:
                await self._engine.create_volume(name, labels)
                undo.push_async_callback(_quietly, self._engine.remove_volume, name)

    async def _start_lb(
        self,
        body: Json,
        old: Json | None,
        wanted: dict[str, Address],
        undo: contextlib.AsyncExitStack,
    ) -> Json:
        """Start a new lb, in the place of the old one; undone, the old one runs again."""
        name = self._names.lb
        if old is not None:
            if _name(old) == name:
                name = f"{name}-next"
            for other in await self._engine.containers(self._names.filters("lb")):
                if other["Id"] != old["Id"]:  # left by an interrupted replacement
                    await self._engine.remove(other["Id"])
            if _runs(old):
                undo.push_async_callback(_quietly, self._engine.start, old["Id"])
        new = await self._engine.create(name, body)
        undo.push_async_callback(_quietly, self._engine.remove, new)
        if old is not None:
            await self._engine.stop(old["Id"], LB_STOP_TIMEOUT_S)
        with engine_finds_out(wanted):
            await self._engine.start(new)
        return await self._engine.inspect(new)

    # How it is ended

    async def _end(self, containers: Sequence[Json], grace_s: float) -> None:
        slots = asyncio.Semaphore(_AT_A_TIME)

        async def end(container: str) -> None:
            async with slots:
                try:
                    await self._engine.stop(container, grace_s)
                except EngineRefusedError as error:
                    log.info("%s; it is killed", error)
                await self._engine.remove(container)

        await asyncio.gather(*(end(container["Id"]) for container in containers))

    async def _remove_network(self, network: Json) -> None:
        try:
            await self._engine.remove_network(network["Name"])
        except EngineRefusedError as error:
            facts = await self._engine.network(network["Name"])
            strangers = ((facts or {}).get("Containers") or {}).values()
            if not strangers:
                raise
            who = ", ".join(sorted(printable(str(one["Name"]), 60) for one in strangers))
            raise OperationError(
                f"network {network['Name']} is still used by {who}, which is not of this "
                "project: take it off the network, then run down again"
            ) from error


def _wanted(config: Config) -> dict[str, Address]:
    """What is listened on outside, by the flag that sets the port. Traffic comes first."""
    return {
        "--port": Address(config.bind, config.port),
        "--admin-port": Address(config.admin_bind, config.admin_port),
    }


def _settings(config: Config) -> dict[str, str]:
    """The variables that carry `config` into the container: what is not its default there.

    What only says how to start a stack stays outside: it is no reason to replace the lb.
    """
    settings = {}
    for leaf in LEAVES.values():
        section: Any = getattr(config, leaf.section) if leaf.section else config
        value = getattr(section, leaf.name)
        outside = leaf.name in _OUTSIDE or leaf.section == "deploy"
        if not outside and value != leaf.default:
            settings[leaf.variable] = str(value)
    return settings | {LEAVES["project"].variable: config.project}


def _digest(body: Json, image_id: str) -> str:
    text = json.dumps([body, image_id], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _difference(old: Json, body: Json, image_id: str) -> str:
    """Why the old lb is not what `body` would make, in words; "" where it is."""
    digest = old["Config"]["Labels"].get(LABEL_DIGEST)
    if digest is None or digest == body["Labels"][LABEL_DIGEST]:
        return ""
    if old["Image"] != image_id:
        return "another image"
    if old["HostConfig"]["PortBindings"] != body["HostConfig"]["PortBindings"]:
        return "other ports"
    return "other settings"


def _name(lb: Json) -> str:
    return printable(str(lb["Name"]).removeprefix("/"), 128)


def _runs(lb: Json) -> bool:
    state = lb["State"]
    return bool(state["Running"] and not state["Restarting"])


def _published(lb: Json, port: str) -> Address:
    bindings = (lb["HostConfig"]["PortBindings"] or {}).get(port) or [{}]
    return Address(bindings[0].get("HostIp", ""), int(bindings[0].get("HostPort") or 0))


async def _quietly(undo: Any, *args: Any) -> None:
    """Undo one thing; what cannot be undone must not hide why."""
    try:
        await undo(*args)
    except EngineError as error:
        log.warning("not cleaned up: %s", error)
