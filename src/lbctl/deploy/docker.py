"""A stack on a Docker engine, as `lbctl up` makes it from outside: images, one network, three
volumes, and the pieces of deploy/pieces.py. The backends are the lbs' own affair; the leading one
is asked for them through the admin port. Every object carries the label lbctl.project, and what
carries it is what `down` removes.

What the lb's processes are set to is no reason to replace anything here: that is the reload's
affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from lbctl import paths
from lbctl.config import FIXED, LEAVES, settings_of
from lbctl.core.text import printable
from lbctl.deploy import Address, Count, FoundStack
from lbctl.deploy.images import ensure_image, ensure_images
from lbctl.deploy.listening import (
    check_addresses,
    engine_finds_out,
    refuse_listened,
    refuse_published,
)
from lbctl.deploy.logs import log_lines
from lbctl.deploy.pieces import (
    Pieces,
    Present,
    Wanted,
    name_of,
    published,
    quietly,
    runs,
    same,
    seal,
    stop_timeout_s,
)
from lbctl.deploy.secure import addresses_of, files_of, warnings_of
from lbctl.deploy.turns import make_base, opened, turn
from lbctl.errors import LbctlError, OperationError, UsageError
from lbctl.model import LABEL_PROJECT
from lbctl.paths import CONTAINER
from lbctl.runtime.containers import (
    ADMIN_PORT,
    BACKEND_IMAGE,
    ENGINE_SOCKET,
    LB_IMAGE,
    LB_NAMES,
    LB_STOP_TIMEOUT_S,
    TLS_PORT,
    TRAFFIC_PORT,
    Names,
    guard_body,
    listed_name,
    pod_body,
)
from lbctl.runtime.transport import EngineRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from lbctl.config import Config
    from lbctl.deploy import LogLine, Progress, StackOptions
    from lbctl.deploy.secure import TlsFiles
    from lbctl.runtime.containers import Json
    from lbctl.runtime.engine import Engine

log = logging.getLogger(__name__)

DEFAULT_LBS: Final = 2
# Inside the container these are fixed; outside they are the published ports.
_OUTSIDE: Final = frozenset({*FIXED} - {"project"})
_INSIDE: Final = {"--port": TRAFFIC_PORT, "--admin-port": ADMIN_PORT, "--tls-port": TLS_PORT}
_RESERVED: Final = frozenset({"bridge", "host", "none", "default"})
_BACKEND_GRACE_S: Final = 3.0  # the lb is gone by then, and their clients with it
_AT_A_TIME: Final = 8
_IN_USE: Final = "has active endpoints"  # why the engine does not remove a network
_TURN_S: Final = 900.0  # another command may have images to build
_DRAINED_S: Final = 10  # for an lb to end when its clients have left, or may stay no longer


class DockerStack:
    """The stack of one project on one engine. Implements lbctl.deploy.Stack."""

    runtime = "docker"

    def __init__(self, project: str, engine: Engine) -> None:
        """`close` closes the engine too. Raises UsageError for a name Docker keeps to itself."""
        if project in _RESERVED:
            raise UsageError(f"project {project!r}: Docker has a network of its own of that name")
        self._names = Names(project)
        self._engine = engine
        self._pieces = Pieces(engine, self._names)

    async def close(self) -> None:
        await self._engine.close()

    async def find(self) -> FoundStack | None:
        present = await self._pieces.present()
        return self._found(present) if present.anything else None

    async def settled(self, progress: Progress) -> FoundStack | None:
        async with self._turn(progress):
            return await self.find()

    async def up(self, options: StackOptions, progress: Progress) -> FoundStack:
        async with self._turn(progress):
            return await self._up(options, progress)

    async def _up(self, options: StackOptions, progress: Progress) -> FoundStack:
        present = await self._pieces.present()
        await self._refuse_strange_objects(options.lbs or DEFAULT_LBS)
        socket = self._engine.socket
        files = files_of(options.config, here=socket is not None, socket=socket)
        if socket is not None:
            for warning in warnings_of(options.config):
                progress.note(warning)
        addresses = addresses_of(options.config)
        await self._refuse_taken_ports(addresses, present)
        wanted = await self._wanted(options, files, addresses, progress)
        if not present.made_by_up:
            return await self._wake(present, wanted, progress)
        async with contextlib.AsyncExitStack() as undo:
            await self._ensure_surroundings(undo)
            await self._pieces.remove_strays(present)
            moved = present.pod is not None and not same(present.pod, wanted.pod)
            if moved:
                await self._pieces.move(present, wanted, undo, progress)
            else:
                await self._pieces.bring(present, wanted, undo, progress, force=False)
            undo.pop_all()
        if moved:
            await self._pieces.forget_what_moved(present)
        return self._found(await self._pieces.present())

    async def upgrade(self, options: StackOptions, progress: Progress) -> FoundStack:
        """Replace the guard and every lb, one after the other. Raises as `up` does, and
        OperationError where there is no stack; a new lb that does not get ready is removed, and
        the old one goes on.
        """
        async with self._turn(progress):
            return await self._upgrade(options, progress)

    async def _upgrade(self, options: StackOptions, progress: Progress) -> FoundStack:
        present = await self._pieces.present()
        if present.pod is None or not runs(present.pod):
            raise OperationError(f"no stack of project {self._names.project!r} runs here")
        if not present.made_by_up:
            raise OperationError("this stack was not made by `lbctl up`: upgrade it as it was made")
        options = replace(
            options,
            lbs=options.lbs or len(present.lbs),
            backend_image=options.backend_image or present.backend_image,
        )
        await self._refuse_strange_objects(options.lbs)
        addresses = addresses_of(options.config)
        addresses.pop("--tls-port", None)
        if present.tls_files.mounts:  # it stays as it is, and so may nobody have said it again
            addresses["--tls-port"] = published(present.pod, TLS_PORT)
        wanted = await self._wanted(options, present.tls_files, addresses, progress)
        if not same(present.pod, wanted.pod):
            raise UsageError("upgrade changes no ports: lbctl up does, and breaks traffic for it")
        async with contextlib.AsyncExitStack() as undo:
            await self._ensure_surroundings(undo)
            await self._pieces.remove_strays(present)
            await self._pieces.bring(present, wanted, undo, progress, force=True)
            undo.pop_all()
        return self._found(await self._pieces.present())

    async def down(self, progress: Progress) -> bool:
        async with self._turn(progress):
            return await self._down(progress)

    async def _down(self, progress: Progress) -> bool:
        present = await self._pieces.present()
        everything = await self._engine.containers(self._names.filters())
        count = Count(progress, len(everything), "containers")
        if present.guard is not None:
            await self._engine.remove(present.guard["Id"])  # it would start the others again
            count.one_more()
        lbs = await self._engine.containers(self._names.filters("lb"))
        if lbs:
            # Before the backends: as long as one runs, it may start some.
            progress.note(f"stopping {', '.join(sorted(map(listed_name, lbs)))}")
            longest_s = max(map(stop_timeout_s, present.lbs.values()), default=LB_STOP_TIMEOUT_S)
            await self._end(lbs, longest_s, count)
        others = await self._engine.containers(self._names.filters())
        backends = len(await self._engine.containers(self._names.filters("backend")))
        if backends:
            progress.note(f"stopping {backends} backend{'s' if backends > 1 else ''}")
        await self._end(others, _BACKEND_GRACE_S, count)
        there_was = bool(present.guard or lbs or others)
        network = await self._engine.network(self._names.network)
        if network is not None and self._is_ours(network):
            there_was = True
            await self._remove_network(network, progress)
        for name in self._names.volumes:
            volume = await self._engine.volume(name)
            if volume is not None and self._is_ours(volume):
                there_was = True
                await self._engine.remove_volume(name)
        return there_was

    async def fetch(self, image: str, progress: Progress) -> None:
        await ensure_image(self._engine, image, progress, build=False)

    async def admin_token(self) -> str:
        present = await self._pieces.present()
        if not present.lbs:
            raise OperationError(f"no stack of project {self._names.project} is here")
        lb = min(present.lbs.values(), key=lambda lb: not runs(lb))
        try:
            raw = await self._engine.read_file(lb["Id"], str(CONTAINER.admin_token))
        except EngineRefusedError as error:
            if error.status != 404:
                raise
            raise OperationError(f"{name_of(lb)} has not made its admin token yet") from None
        return raw.decode("ascii", errors="replace").strip()

    async def logs(self, follow: bool, tail: int) -> AsyncIterator[LogLine]:
        containers = await self._engine.containers(self._names.filters())
        async for line in log_lines(self._engine, containers, follow=follow, tail=tail):
            yield line

    def _turn(self, progress: Progress) -> contextlib.AbstractAsyncContextManager[None]:
        """Of the commands that this user gives on this machine. Where nothing can be locked, as
        in a container without a writable directory, nobody is waited for.
        """
        project = self._names.project
        base = paths.local(project).state.parent
        try:
            make_base(base)
            lock = opened(base / f".{project}.docker.lock")
        except LbctlError:
            return contextlib.nullcontext()
        return turn(lock, project, progress, _TURN_S)

    # What is there

    def _found(self, present: Present) -> FoundStack:
        pod, lbs = present.pod, list(present.lbs.values())
        alive = tuple(name for name, lb in present.lbs.items() if runs(lb))
        return FoundStack(
            runtime=self.runtime,
            project=self._names.project,
            lb=" and ".join(name_of(lb) for lb in lbs) or "no lb",
            lbs=tuple(name for name in alive if not present.lbs[name]["State"]["Paused"]),
            running=pod is not None and runs(pod) and bool(alive),
            traffic=published(pod, TRAFFIC_PORT),
            admin=published(pod, ADMIN_PORT),
            image=printable(lbs[0]["Config"]["Image"]) if lbs else "",
            managed=present.made_by_up,
            tls=published(pod, TLS_PORT) if published(pod, TLS_PORT).port else None,
            tls_files=present.tls_files.outside,
        )

    def _is_ours(self, thing: Json) -> bool:
        labels = thing.get("Labels") or {}
        return bool(labels.get(LABEL_PROJECT) == self._names.project)

    # What must not be

    async def _refuse_strange_objects(self, lbs: int) -> None:
        """Raise UsageError where somebody else's object has a name of ours."""
        network = await self._engine.network(self._names.network)
        if network is not None and not self._is_ours(network):
            raise self._strange("network", self._names.network)
        for name in self._names.volumes:
            volume = await self._engine.volume(name)
            if volume is not None and not self._is_ours(volume):
                raise self._strange("volume", name)

        ours = {self._names.pod, self._names.guard, *map(self._names.lb, LB_NAMES[:lbs])}
        for container in await self._engine.containers({}):
            if (name := listed_name(container)) in ours and not self._is_ours(container):
                raise self._strange("container", name)

    def _strange(self, kind: str, name: str) -> UsageError:
        return UsageError(
            f"there is a Docker {kind} {name} that is not lbctl's: choose another --project, "
            f"or remove it (docker {kind} rm {'-f ' if kind == 'container' else ''}{name})"
        )

    async def _refuse_taken_ports(self, wanted: dict[str, Address], present: Present) -> None:
        check_addresses(wanted)
        pod = present.pod
        containers = await self._engine.containers({})
        own = {piece["Id"] for piece in (pod, *present.strays) if piece is not None}
        refuse_published(wanted, [other for other in containers if other["Id"] not in own])
        held: set[int] = set()
        if pod is not None and runs(pod):
            held = {published(pod, port).port for port in (TRAFFIC_PORT, ADMIN_PORT, TLS_PORT)}
        if self._engine.socket is not None:  # it is this machine's engine
            refuse_listened({f: a for f, a in wanted.items() if a.port not in held})

    # What is to be

    async def _wanted(
        self,
        options: StackOptions,
        files: TlsFiles,
        addresses: dict[str, Address],
        progress: Progress,
    ) -> Wanted:
        lb_ref = options.lb_image or LB_IMAGE
        backend_ref = options.backend_image or BACKEND_IMAGE
        image_id = await ensure_images(self._engine, lb_ref, backend_ref, options.build, progress)
        source = _engine_source(self._engine.socket)
        inside = {_INSIDE[flag]: address for flag, address in addresses.items()}
        pod = pod_body(self._names, lb_ref, inside)
        guard = guard_body(self._names, lb_ref, source, backend_ref)
        # The pod holds the address: another image of what does nothing is no reason to lose it.
        seal(pod, pod["HostConfig"]["PortBindings"])
        seal(guard, [guard, image_id])
        return Wanted(
            pod=pod,
            guard=guard,
            lbs=tuple(LB_NAMES[: options.lbs or DEFAULT_LBS]),
            image=lb_ref,
            image_id=image_id,
            settings=_settings(options.config) | {LEAVES["backend_image"].variable: backend_ref},
            engine_socket=source,
            stop_timeout_s=_stop_timeout_s(options.config),
            addresses=addresses,
            tls_files=files,
        )

    async def _ensure_surroundings(self, undo: contextlib.AsyncExitStack) -> None:
        """The network and the volumes; those that this makes are undone again."""
        names, labels = self._names, self._names.labels()
        if await self._engine.network(names.network) is None:
            network = await self._engine.create_network(names.network, labels)
            undo.push_async_callback(quietly, self._engine.remove_network, network)
        for name in names.volumes:
            if await self._engine.volume(name) is None:
                await self._engine.create_volume(name, labels)
                undo.push_async_callback(quietly, self._engine.remove_volume, name)

    async def _wake(self, present: Present, wanted: Wanted, progress: Progress) -> FoundStack:
        """Start what somebody else made, as it is."""
        progress.note("the stack was not made by `lbctl up`: it stays as it is")
        for one in (present.pod, *present.lbs.values(), present.guard):
            if one is not None and not runs(one):
                progress.note(f"starting {name_of(one)}")
                with engine_finds_out(wanted.addresses):
                    await self._engine.start(one["Id"])
        return self._found(await self._pieces.present())

    # How it is ended

    async def _end(self, containers: Sequence[Json], grace_s: float, count: Count) -> None:
        slots = asyncio.Semaphore(_AT_A_TIME)

        async def end(container: str) -> None:
            async with slots:
                try:
                    await self._engine.stop(container, grace_s)
                except EngineRefusedError as error:
                    log.info("%s; it is killed", error)
                await self._engine.remove(container)
                count.one_more()

        await asyncio.gather(*(end(container["Id"]) for container in containers))

    async def _remove_network(self, network: Json, progress: Progress) -> None:
        name = network["Name"]
        try:
            await self._engine.remove_network(name)
        except EngineRefusedError as error:
            facts = await self._engine.network(name)
            strangers = ((facts or {}).get("Containers") or {}).values()
            if strangers:
                who = ", ".join(sorted(printable(str(one["Name"]), 60) for one in strangers))
                raise OperationError(
                    f"network {name} is still used by {who}, which is not of this "
                    "project: take it off the network, then run down again"
                ) from error
            if _IN_USE not in error.message:
                raise
            # Two containers that come or go at once may spoil the engine's count of those on a
            # network (moby issue 42119). It is counted anew when the engine starts.
            progress.note(
                f"network {name} stays: nothing is on it, but the engine has lost count; "
                "lbctl down removes it after the engine's next start"
            )


def _stop_timeout_s(config: Config) -> int:
    """As long as its workers may drain, and a little."""
    return max(LB_STOP_TIMEOUT_S, math.ceil(config.control.drain_timeout_s) + _DRAINED_S)


def _engine_source(socket: str | None) -> str:
    """What is mounted. /var/run is most often a link to /run: one socket must look the same."""
    return ENGINE_SOCKET if socket is None else os.path.realpath(socket)


def _settings(config: Config) -> dict[str, str]:
    """The variables that carry `config` into the container: what is not its default there.

    What only says how to start a stack stays outside.
    """
    settings = {
        LEAVES[name].variable: str(value)
        for name, value in settings_of(config).items()
        if name not in _OUTSIDE and value != LEAVES[name].default
    }
    return settings | {LEAVES["project"].variable: config.project}
