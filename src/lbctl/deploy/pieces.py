"""The containers of a stack that are not backends: what is there of them, and how each becomes
what is wanted.

    pod        owns the network namespace, with the published ports, and does nothing
    lb a, b    join it, and listen on the same port; each can be replaced while the other serves
    guard      has the engine's socket: starts lbs again that the engine left behind, and lets them
               ask for what is on its list. It comes before them

An lb whose image has changed is replaced start-first, and nobody notices; other ports need another
pod, and with it all lbs. What is made goes onto a stack of undoing; the caller unwinds that where
the whole does not succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from lbctl.config import LEAVES
from lbctl.core.text import printable
from lbctl.deploy import Address, Count
from lbctl.deploy.listening import engine_finds_out
from lbctl.deploy.secure import TlsFiles, env_of, files_in, mounts_of
from lbctl.errors import LbctlError, OperationError
from lbctl.model import LABEL_LB, LABEL_ROLE
from lbctl.paths import CONTAINER
from lbctl.runtime.containers import (
    LB_STOP_TIMEOUT_S,
    MIGRATE_SYSCTL,
    Lb,
    Names,
    guard_body,
    lb_body,
    listed_name,
)
from lbctl.runtime.transport import EngineRefusedError

if TYPE_CHECKING:
    from lbctl.deploy import Progress
    from lbctl.runtime.containers import Json
    from lbctl.runtime.engine import Engine

log = logging.getLogger(__name__)

LABEL_DIGEST: Final = "lbctl.digest"
"""On a container that `up` made: tells whether one made now would be another."""

_READY_S: Final = 30.0
_READY_POLL_S: Final = 0.1
_NEXT: Final = "-next"
_TOLD_LINES: Final = 5


@dataclass(frozen=True, slots=True)
class Present:
    """What is there of a stack, as `inspect` shows it. `strays` are what an interrupted change
    left: a second one where there is to be one.
    """

    pod: Json | None
    guard: Json | None
    lbs: dict[str, Json]
    strays: tuple[Json, ...]

    @property
    def anything(self) -> bool:
        return bool(self.pod or self.lbs or self.strays)

    @property
    def stray_guard(self) -> bool:
        """Whether there is one, which may have taken the place of the other at the socket."""
        return any(one["Config"]["Labels"].get(LABEL_ROLE) == "guard" for one in self.strays)

    @property
    def backend_image(self) -> str:
        """What the lbs were told to make backends from; "" if nothing."""
        prefix = LEAVES["backend_image"].variable + "="
        for lb in self.lbs.values():
            for variable in lb["Config"]["Env"]:
                if variable.startswith(prefix):
                    return str(variable.removeprefix(prefix))
        return ""

    @property
    def tls_files(self) -> TlsFiles:
        """What the lbs serve TLS with."""
        return next(map(files_in, self.lbs.values()), TlsFiles())

    @property
    def made_by_up(self) -> bool:
        return self.pod is None or LABEL_DIGEST in self.pod["Config"]["Labels"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The pieces to be had."""

    pod: Json
    guard: Json
    lbs: tuple[str, ...]
    image: str  # reference
    image_id: str
    settings: dict[str, str]
    engine_socket: str
    stop_timeout_s: int
    addresses: dict[str, Address]
    tls_files: TlsFiles = field(default_factory=TlsFiles)


class Pieces:
    """Those of one project on one engine."""

    def __init__(self, engine: Engine, names: Names) -> None:
        self._engine = engine
        self._names = names

    async def present(self) -> Present:
        pods = await self._inspect("pod")
        guards = await self._inspect("guard")
        lbs: dict[str, list[Json]] = {}
        for lb in await self._inspect("lb"):
            lbs.setdefault(lb["Config"]["Labels"].get(LABEL_LB, ""), []).append(lb)
        strays = [*pods[1:], *guards[1:], *lbs.pop("", [])]
        for group in lbs.values():
            strays += group[1:]
        return Present(
            pod=pods[0] if pods else None,
            guard=guards[0] if guards else None,
            lbs={name: group[0] for name, group in sorted(lbs.items())},
            strays=tuple(strays),
        )

    async def _inspect(self, role: str) -> list[Json]:
        """Those of a role: what runs first, and what has its final name before what has not."""
        listed = await self._engine.containers(self._names.filters(role))
        listed.sort(key=lambda one: (one["State"] != "running", listed_name(one).endswith(_NEXT)))
        found = []
        for one in listed:
            with contextlib.suppress(EngineRefusedError):  # it went meanwhile
                found.append(await self._engine.inspect(one["Id"]))
        return found

    async def bring(
        self,
        present: Present,
        wanted: Wanted,
        undo: contextlib.AsyncExitStack,
        progress: Progress,
        *,
        force: bool,
    ) -> None:
        """Every piece to what is wanted, each while the others serve. With `force` every lb is
        replaced.
        """
        leaving = [lb for name, lb in present.lbs.items() if name not in wanted.lbs]
        count = Count(progress, 2 + len(wanted.lbs) + len(leaving), "containers")
        pod = present.pod
        if pod is None:
            progress.note(f"starting {self._names.pod}")
            pod = await self._start_pod(self._names.pod, wanted, undo, progress)
        elif not runs(pod):
            progress.note(f"starting {name_of(pod)}")
            with engine_finds_out(wanted.addresses):
                await self._engine.start(pod["Id"])
        count.one_more()
        guard = await self._bring_guard(present, wanted.guard, undo, force=force)
        for name in wanted.lbs:
            body = self._lb_body(name, pod["Id"], wanted)
            old = present.lbs.get(name)
            if old is None:
                progress.note(f"starting {self._names.lb(name)}")
                new = await self._start(self._names.lb(name), body, undo)
                if present.lbs:  # which may be replaced next
                    await self._until_ready(new)
            elif force or not same(old, body):
                progress.note(f"replacing {name_of(old)}")
                await self._replace(old, self._names.lb(name), body)
            elif not runs(old) or older(old, pod):
                progress.note(f"starting {name_of(old)}")
                await self._engine.restart(old["Id"])
            count.one_more()
        for lb in leaving:
            progress.note(f"stopping {name_of(lb)}")
            await self._retire(lb)
            count.one_more()
        if guard is not None:  # what comes next needs it
            await self._until_ready(guard)
        count.one_more()

    async def _bring_guard(
        self, present: Present, body: Json, undo: contextlib.AsyncExitStack, *, force: bool
    ) -> Json | None:
        """Returns the one that was started, and may not be ready yet."""
        old = present.guard
        if old is None:
            return await self._start(self._names.guard, body, undo)
        if not force and same(old, body):
            if not runs(old):
                await self._engine.start(old["Id"])
                return old
            if present.stray_guard:
                await self._engine.restart(old["Id"])
                return old
        else:
            try:
                await self._replace(old, self._names.guard, body)
            except BaseException:
                if runs(old):  # the new one may have taken its place at the socket
                    await quietly(self._engine.restart, old["Id"])
                raise
        return None

    async def _start_pod(
        self, name: str, wanted: Wanted, undo: contextlib.AsyncExitStack, progress: Progress
    ) -> Json:
        with engine_finds_out(wanted.addresses):
            try:
                return await self._start(name, wanted.pod, undo)
            except EngineRefusedError as error:
                if MIGRATE_SYSCTL.rpartition(".")[2] not in error.message:
                    raise
            progress.note(
                "this kernel is older than Linux 5.14: what waits in the queue of an lb that ends "
                "is refused, not handed to the other"
            )
            for made in await self._engine.containers({"name": [f"^/{name}$"]}):
                await self._engine.remove(made["Id"])
            host = {k: v for k, v in wanted.pod["HostConfig"].items() if k != "Sysctls"}
            return await self._start(name, wanted.pod | {"HostConfig": host}, undo)

    async def _start(self, name: str, body: Json, undo: contextlib.AsyncExitStack) -> Json:
        new = await self._engine.create(name, body)
        undo.push_async_callback(quietly, self._engine.remove, new)
        await self._engine.start(new)
        return await self._engine.inspect(new)

    async def _replace(self, old: Json, name: str, body: Json) -> None:
        """Start-first: the old one drains only when the new one serves."""
        async with contextlib.AsyncExitStack() as undo:
            new = await self._start(f"{name}{_NEXT}", body, undo)
            if runs(old):
                await self._until_ready(new)
            undo.pop_all()
        await self._retire(old)
        await self._engine.rename(new["Id"], name)

    async def _until_ready(self, container: Json) -> None:
        """Raises OperationError, with the last lines of its log, where it does not get so far."""
        end_s = time.monotonic() + _READY_S
        while not await self._is_ready(container):
            facts = await self._engine.inspect(container["Id"])
            if not runs(facts) or time.monotonic() > end_s:
                why = f"it is not ready after {_READY_S:g} s" if runs(facts) else "it has ended"
                said = await self._last_words(container)
                raise OperationError(f"{name_of(container)}: {why}\n{said}".rstrip())
            await asyncio.sleep(_READY_POLL_S)

    async def _is_ready(self, container: Json) -> bool:
        try:
            asked = ["test", "-e", str(CONTAINER.ready)]
            return await self._engine.execute(container["Id"], asked) == 0
        except EngineRefusedError:  # it does not run, or not for long
            return False

    async def _last_words(self, container: Json) -> str:
        lines = self._engine.logs(container["Id"], follow=False, tail=_TOLD_LINES)
        return "\n".join(
            [f"    {printable(line.decode(errors='replace'), 300)}" async for line in lines]
        )

    async def _retire(self, container: Json) -> None:
        await self._engine.stop(container["Id"], stop_timeout_s(container))
        await self._engine.remove(container["Id"])

    async def move(
        self,
        present: Present,
        wanted: Wanted,
        undo: contextlib.AsyncExitStack,
        progress: Progress,
    ) -> None:
        """To another pod, with other ports. Undone, everything of before runs again."""
        old = present.pod
        assert old is not None  # noqa: S101 - it is what is moved from
        progress.note("other ports or files: starting the lbs again, which breaks traffic")
        before = [one for one in (old, *present.lbs.values()) if runs(one)]
        count = Count(progress, 3 + len(present.lbs) + len(wanted.lbs), "steps")
        for one in reversed(before):  # undone in the other order: the pod comes first
            undo.push_async_callback(quietly, self._engine.start, one["Id"])
        if present.guard is not None:
            await self._engine.remove(present.guard["Id"])
            guard = guard_body(
                self._names,
                present.guard["Config"]["Image"],
                wanted.engine_socket,
                present.backend_image or wanted.settings[LEAVES["backend_image"].variable],
            )
            undo.push_async_callback(quietly, self._make, self._names.guard, guard)
        for lb in present.lbs.values():
            await self._engine.stop(lb["Id"], stop_timeout_s(lb))
            count.one_more()
        await self._engine.stop(old["Id"], 0)
        count.one_more()
        new = await self._start_pod(f"{self._names.pod}{_NEXT}", wanted, undo, progress)
        count.one_more()
        await self._start(self._names.guard, wanted.guard, undo)
        count.one_more()
        for name in wanted.lbs:
            body = self._lb_body(name, new["Id"], wanted)
            await self._start(f"{self._names.lb(name)}{_NEXT}", body, undo)
            count.one_more()

    async def _make(self, name: str, body: Json) -> None:
        await self._engine.start(await self._engine.create(name, body))

    async def forget_what_moved(self, present: Present) -> None:
        for one in (*present.lbs.values(), present.pod):
            if one is not None:
                await self._engine.remove(one["Id"])
        for one in await self._engine.containers(self._names.filters()):
            if listed_name(one).endswith(_NEXT):
                await self._engine.rename(one["Id"], listed_name(one).removesuffix(_NEXT))

    async def remove_strays(self, present: Present) -> None:
        for one in present.strays:
            await self._engine.remove(one["Id"])
        # The one that was to take a place has it, if the other is gone already.
        for name, lb in present.lbs.items():
            if name_of(lb) != self._names.lb(name):
                await self._engine.rename(lb["Id"], self._names.lb(name))
        for piece, name in ((present.pod, self._names.pod), (present.guard, self._names.guard)):
            if piece is not None and name_of(piece) != name:
                await self._engine.rename(piece["Id"], name)

    def _lb_body(self, name: str, pod: str, wanted: Wanted) -> Json:
        lb = Lb(
            name,
            wanted.image,
            pod,
            wanted.settings | dict(wanted.tls_files.settings),
            wanted.stop_timeout_s,
            tuple(mounts_of(wanted.tls_files)),
        )
        body = lb_body(self._names, lb)
        backends = wanted.settings[LEAVES["backend_image"].variable]
        told = [backends, *env_of(wanted.tls_files)]
        seal(body, [body | {"Env": told}, wanted.image_id])
        return body


def seal(body: Json, essence: Any) -> None:
    """Label a request with a digest of what makes its container another one."""
    text = json.dumps(essence, sort_keys=True)
    body["Labels"][LABEL_DIGEST] = hashlib.sha256(text.encode()).hexdigest()[:16]


def same(old: Json, body: Json) -> bool:
    """Whether the old one is what `body` would make."""
    digest: str = old["Config"]["Labels"].get(LABEL_DIGEST, "")
    wanted: str = body["Labels"][LABEL_DIGEST]
    return digest == wanted


def name_of(container: Json) -> str:
    return printable(str(container["Name"]).removeprefix("/"), 128)


def stop_timeout_s(lb: Json) -> int:
    """How long an lb may take to end: its drain, and a little."""
    return int(lb["Config"].get("StopTimeout") or LB_STOP_TIMEOUT_S)


def runs(container: Json) -> bool:
    state = container["State"]
    return bool(state["Running"] and not state["Restarting"])


def older(lb: Json, pod: Json) -> bool:
    """Whether an lb is still in the network of the pod's last life. (Times are RFC 3339.)"""
    return bool(lb["State"]["StartedAt"] < pod["State"]["StartedAt"])


def published(pod: Json | None, port: str) -> Address:
    bindings = ((pod or {}).get("HostConfig", {}).get("PortBindings") or {}).get(port) or [{}]
    return Address(bindings[0].get("HostIp", ""), int(bindings[0].get("HostPort") or 0))


async def quietly(undo: Any, *args: Any) -> None:
    """Undo one thing; what cannot be undone must not hide why."""
    try:
        await undo(*args)
    except LbctlError as error:
        log.warning("not cleaned up: %s", error)
