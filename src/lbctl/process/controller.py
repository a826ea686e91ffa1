"""The controller: everything that decides, on one event loop.

It may die at any time: the workers route on, the next one restores the membership and goes
on from there. Where several lbs share a state directory, one controller leads, and has the
workers of all of them; the others wait for its lock, and take over as soon as it is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
import struct
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from lbctl import __version__, tokens
from lbctl.admin.api import AdminServer, Facts
from lbctl.admin.auth import LOOPBACK, Access
from lbctl.admin.door import Bounds
from lbctl.config import (
    changeable,
    digest_of,
    overlay,
    overlay_file,
    refuse_fixed,
    settings_of,
    shown,
)
from lbctl.control.aging import Limits
from lbctl.control.discovery import Discovery
from lbctl.control.guarding import keep_count
from lbctl.control.history import History
from lbctl.control.http import HttpListWriter, HttpProbe
from lbctl.control.reconciler import Reconciler
from lbctl.control.rotation import TokenRotator
from lbctl.control.scaler import Scaler
from lbctl.control.store import JsonFile
from lbctl.core.history import Event, Kind, process_events, unheard
from lbctl.core.hosts import host_names
from lbctl.core.saved import from_document
from lbctl.errors import LbctlError, OperationError
from lbctl.model import ControlStats
from lbctl.paths import write_atomically
from lbctl.process.follower import follow
from lbctl.process.host import SupervisorClient
from lbctl.process.hub import Hub
from lbctl.process.leadership import Leadership
from lbctl.runtime.containers import ADMIN_PORT, BACKEND_IMAGE, TRAFFIC_PORT
from lbctl.runtime.docker import DockerRuntime
from lbctl.runtime.guarded import GuardedRuntime
from lbctl.runtime.local import LocalRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from lbctl.admin.auth import Network
    from lbctl.config import Config
    from lbctl.model import Certificate, Failure, Membership, Process, TrafficTotals
    from lbctl.paths import Paths
    from lbctl.ports import Runtime, Traffic
    from lbctl.process.board import Board

_log = logging.getLogger("lbctl.controller")

_RETRY_S = 1.0
_WORKERS_DEADLINE_S = 1.0
_OBSERVED_DEADLINE_S = 1.0
_BEAT_S = 0.25
_PEER_RELOAD_S = 20.0
_PROCESSES_S = 0.5


def main(
    config: Config,
    paths: Paths,
    *,
    lb: str,
    admin: socket.socket,
    supervisor: socket.socket,
    pulse: Board,
    worker_uids: Collection[int],
) -> None:
    """Run until SIGTERM. The sockets are the supervisor's; they outlive this process."""
    controller = Controller(config, paths, lb, worker_uids)
    uvloop.run(controller.run(admin, supervisor, pulse))


class Controller:
    """Puts the control plane together."""

    def __init__(self, config: Config, paths: Paths, lb: str, worker_uids: Collection[int]) -> None:
        self._config = config
        self._paths = paths
        self._lb = lb
        self._stats = ControlStats()
        self._supervisor = SupervisorClient(lb)
        self._worker_uids = worker_uids
        self._reconciler: Reconciler | None = None

    async def run(self, admin: socket.socket, supervisor: socket.socket, pulse: Board) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor's to decide
        beating = loop.create_task(_beat(pulse))
        await self._supervisor.connect(supervisor)
        async with contextlib.AsyncExitStack() as cleanup:
            ready = partial(pulse.tell_ready, 0)
            controlling = loop.create_task(self._control(admin, ready, cleanup))
            stopping = loop.create_task(stop.wait())
            await asyncio.wait({controlling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not controlling.done():
                controlling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await controlling
        beating.cancel()

    async def _lead(self, ready: Callable[[], None]) -> None:
        """Return as the one that decides; follow the one that does until then. Either way it is
        `ready`: it knows its place.
        """
        leadership = Leadership(self._paths.leader)
        following = None
        if self._lb:
            following = asyncio.create_task(
                follow(self._lb, digest_of(self._config), self._paths, self._supervisor, ready)
            )
        await leadership.acquire()
        ready()
        if following is not None:
            following.cancel()
            _log.info("this lb leads now")

    async def _control(
        self,
        admin: socket.socket,
        ready: Callable[[], None],
        cleanup: contextlib.AsyncExitStack,
    ) -> None:
        config, paths = self._config, self._paths
        await self._lead(ready)
        # With what the last one saved. Whoever follows finds it, also where there is no token yet.
        self._hub = Hub(paths, self._worker_uids, self._suspect, self._failing, self._lb)
        reloader = Reloader(config, paths, self._supervisor, self._hub)
        self._hub.settings_digest = reloader.digest
        await self._hub.start()
        cleanup.push_async_callback(self._hub.close)
        await self._ensure_tokens()
        store = JsonFile(paths.membership)
        journal = self._journal(reloader, store)
        cleanup.push_async_callback(journal.close)
        runtime = await self._runtime()
        cleanup.push_async_callback(runtime.close)
        probe = HttpProbe(config.health)
        cleanup.push_async_callback(probe.close)
        writer = HttpListWriter(
            config.control.publish_timeout_s, partial(tokens.publish_token, paths)
        )
        cleanup.push_async_callback(writer.close)
        reconciler = self._reconciler = Reconciler(
            config.health,
            config.control,
            probe=probe,
            writer=writer,
            routes=self._hub,
            store=store,
            stats=self._stats,
            record=journal.record,
        )
        discovery = Discovery(runtime, config.control, self._stats, reconciler.observe)
        scaler = Scaler(
            runtime,
            reconciler,
            self._hub,
            config.control,
            config.fleet,
            JsonFile(paths.scale),
            discovery.look,
            self._image(runtime),
            journal.record,
        )
        cleanup.push_async_callback(scaler.close)
        rotator = TokenRotator(paths, reconciler)
        traffic = _Traffic(self._hub, self._supervisor)
        server = AdminServer(
            reconciler,
            traffic,
            scaler,
            reloader,
            rotator,
            self._stats,
            self._facts(runtime),
            self._access(runtime.name),
            _bounds(config),
            journal=journal,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(catch_up(config, paths, self._supervisor))
            group.create_task(reconciler.run())
            group.create_task(discovery.run())
            group.create_task(rotator.run())
            group.create_task(tell_processes(traffic, journal.record))
            group.create_task(self.scale_when_served(self._hub, scaler))
            if isinstance(runtime, GuardedRuntime):
                counted = JsonFile(paths.guard_counters)
                group.create_task(keep_count(runtime.counters, counted, self._stats))
            # A scrape before the workers have told what they counted would go back.
            await self._hub.connected(_worker_processes(self._supervisor), _WORKERS_DEADLINE_S)
            # Nor is a status of any use that knows no backend yet.
            told = group.create_task(self._tell_addresses(runtime, server))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_OBSERVED_DEADLINE_S):
                    await reconciler.wait_until(lambda: reconciler.observed)
                    await asyncio.shield(told)
            if not reconciler.observed:
                _log.warning("the runtime shows nothing: going on with those that were served")
                reconciler.presume()
            await server.start(admin)
            cleanup.push_async_callback(server.close)

    def _journal(self, reloader: Reloader, store: JsonFile) -> History:
        """The history, from the moment on in which this controller leads."""
        kept = self._config.history
        limits = Limits(kept.history_rows, kept.history_days, kept.history_mb * 1_000_000)
        journal = History(self._paths, limits, self._stats)
        journal.start(_saved_list(store))
        lb = f"lb {self._lb}" if self._lb else "the lb"
        data = {"lb": self._lb, "pid": os.getpid(), "version": __version__}
        journal.record(Event(Kind.LEADER, f"the controller of {lb} decides now", self._lb, data))
        reloader.record = journal.record
        return journal

    async def scale_when_served(self, hub: Hub, scaler: Scaler) -> None:
        """Not before the workers are there: who asks them whether a backend is idle must not be
        told so by nobody.
        """
        lbs = 2 if self._lb else 1
        await hub.connected(lbs * _worker_processes(self._supervisor), _WORKERS_DEADLINE_S)
        await scaler.run()

    async def _ensure_tokens(self) -> None:
        while True:
            try:
                return tokens.ensure(self._paths)
            except LbctlError as error:
                _log.warning("%s; trying again", error)
                await asyncio.sleep(_RETRY_S)

    async def _runtime(self) -> Runtime:
        if self._config.runtime == "local":
            local = LocalRuntime(self._config.project, self._paths, self._supervisor)
            try:
                await local.recover()
            except LbctlError as error:
                _log.warning("the backends of before cannot be run again: %s", error)
            return local
        return GuardedRuntime.behind_guard(self._config.project, self._admin_token)

    def _image(self, runtime: Runtime) -> str:
        """What backends are made from, as far as the settings decide."""
        if isinstance(runtime, DockerRuntime):
            return self._config.deploy.backend_image or BACKEND_IMAGE
        return ""

    def _facts(self, runtime: Runtime) -> Facts:
        config = self._config
        return Facts(
            project=config.project,
            runtime=runtime.name,
            version=__version__,
            address=f"{config.bind or '0.0.0.0'}:{config.port}",
            admin_address=f"{config.admin_bind}:{config.admin_port}",
            leader=self._lb,
        )

    async def _tell_addresses(self, runtime: Runtime, server: AdminServer) -> None:
        """Those that clients use: in a container the published ones, which the engine knows."""
        if not isinstance(runtime, DockerRuntime):
            return
        while True:
            try:
                published = await runtime.published(socket.gethostname())
                break
            except LbctlError:
                await asyncio.sleep(self._config.control.reconnect_max_s)
        server.reached_at(published.get(TRAFFIC_PORT), published.get(ADMIN_PORT))

    def _suspect(self, backend_id: str) -> None:
        if self._reconciler is not None:
            self._reconciler.suspect(backend_id)

    def _failing(self, backend_id: str, cause: Failure) -> None:
        if self._reconciler is not None:
            self._reconciler.failing(backend_id, cause)

    def _access(self, runtime: str) -> Access:
        return Access(
            self._admin_token,
            partial(_open_networks, runtime),
            lambda: tokens.retiring(self._paths),
            host_names(self._config.admin.admin_hosts),
        )

    def _admin_token(self) -> str:
        try:
            return tokens.read(self._paths.admin_token)
        except LbctlError as error:
            _log.warning("%s", error)
            return ""


def _saved_list(store: JsonFile) -> Membership | None:
    try:
        return from_document(store.load()).membership
    except ValueError:
        return None  # the reconciler says so


class _Traffic:
    """ports.Traffic, put together from its two halves."""

    def __init__(self, hub: Hub, supervisor: SupervisorClient) -> None:
        self._hub = hub
        self._supervisor = supervisor

    def totals(self) -> TrafficTotals:
        return self._hub.totals()

    def keep(self) -> None:
        self._hub.keep()

    def processes(self) -> Sequence[Process]:
        everyone = (*self._supervisor.processes(), *self._hub.peers.processes())
        return sorted(everyone, key=attrgetter("lb"))

    def certificates(self) -> Sequence[Certificate]:
        return self._supervisor.certificates()


class Reloader:
    """Implements ports.Reloader: what is changed is kept beside the membership, for every lb that
    reads its settings anew.
    """

    def __init__(
        self, config: Config, paths: Paths, supervisor: SupervisorClient, hub: Hub
    ) -> None:
        self._config = config
        self._paths = paths
        self._supervisor = supervisor
        self._hub = hub
        self._target = _last_changed(config, paths)  # ahead of the other while the lbs reload
        self._turn = asyncio.Lock()
        self.record: Callable[[Event], None] = unheard  # set by its owner

    def settings(self) -> dict[str, Any]:
        return settings_of(self._config)

    async def reload(self, settings: Mapping[str, Any] | None) -> None:
        async with self._turn:
            config = self._config
            if settings is not None:
                config = overlay(config, settings, "settings")
                refuse_fixed(self._config, config)
            changed = _changes(self._config, config)
            before, target = self._kept(), self._target
            self._keep(settings or {})
            self._target = config
            try:
                await self._hub.peers.reload(_PEER_RELOAD_S)
                await self._supervisor.reload()
            except BaseException as error:
                self._target = target
                why = error or "the controller ended"
                self.record(_of_reload(f"it did not work: {why}", changed))
                try:
                    self._write(before)
                except OperationError as second:
                    _log.error("settings that do not work stay for the next start: %s", second)
                else:
                    await self._hub.peers.take_back(_PEER_RELOAD_S)
                raise
            self._config = config
            self.record(_of_reload("new workers and controllers", changed))

    def digest(self) -> str:
        """Of the settings that every lb is to have, as the controllers of others tell theirs."""
        return digest_of(self._target)

    def _kept(self) -> bytes | None:
        try:
            return self._paths.serve.read_bytes()
        except OSError:
            return None

    def _keep(self, settings: Mapping[str, Any]) -> None:
        """Add these to what was changed before. What nobody changed stays open: it is the
        environment's.
        """
        try:
            document = json.loads(self._kept() or b"{}")
        except ValueError:
            document = {}
        changed = (document if isinstance(document, dict) else {}) | changeable(settings)
        self._write(json.dumps(changed).encode())

    def _write(self, data: bytes | None) -> None:
        try:
            if data is None:
                self._paths.serve.unlink(missing_ok=True)
            else:
                write_atomically(self._paths.serve, data, 0o600)
        except OSError as error:
            raise OperationError(f"the settings cannot be kept: {error.strerror}") from None


def _last_changed(config: Config, paths: Paths) -> Config:
    """With what was changed while this lb had no controller to hear it."""
    try:
        return overlay_file(config, paths.serve)
    except (LbctlError, OSError):
        return config


def _changes(before: Config, after: Config) -> dict[str, Any]:
    """Settings that differ, as they may be shown: name: [before, after]."""
    old, new = settings_of(before), settings_of(after)
    names = [name for name in new if old[name] != new[name]]
    shown_old, shown_new = shown(old), shown(new)
    return {name: [shown_old[name], shown_new[name]] for name in names}


def _of_reload(text: str, changed: Mapping[str, Any]) -> Event:
    names = ", ".join(changed) or "no other settings"
    return Event(Kind.RELOAD, f"{text}: {names}", data={"changed": dict(changed)})


async def tell_processes(traffic: Traffic, record: Callable[[Event], None]) -> None:
    """Until cancelled: the history hears which processes of the lbs come and go."""
    before, since = traffic.processes(), datetime.now(UTC)
    while True:
        await asyncio.sleep(_PROCESSES_S)
        after = traffic.processes()
        for event in process_events(before, after, since):
            record(event)
        before = after


def _bounds(config: Config) -> Bounds:
    return Bounds(
        connections=config.admin.admin_connections,
        head_s=config.timeouts.head_timeout_s,
        idle_s=config.timeouts.client_idle_timeout_s,
    )


async def catch_up(config: Config, paths: Paths, supervisor: SupervisorClient) -> None:
    """Have this lb reload where its settings are no longer those that were last changed: while one
    leader told the others to reload, this one had no controller to hear it.
    """
    try:
        if digest_of(overlay_file(config, paths.serve)) != digest_of(config):
            _log.info("this lb missed a reload: it reloads now")
            await supervisor.reload()
    except (LbctlError, OSError) as error:
        _log.error("this lb goes on with the settings it has: %s", error)


async def _beat(pulse: Board) -> None:
    """Tells the supervisor that this loop turns."""
    while True:
        pulse.write(0, 0)
        await asyncio.sleep(_BEAT_S)


def _worker_processes(supervisor: SupervisorClient) -> int:
    return sum(process.role == "worker" for process in supervisor.processes())


def _open_networks(runtime: str) -> list[Network]:
    """Who may read without a token: the machine. Whoever comes through the published loopback
    port of a container comes from the network's gateway; a container's own loopback is that of
    its workers, who may not.
    """
    inside = Path("/.dockerenv").exists()
    return [*(LOOPBACK if runtime == "local" else ()), *(_gateways() if inside else ())]


def _gateways() -> list[Network]:
    """Gateways of the default routes (Linux: /proc/net/route, addresses in host order)."""
    gateways: list[Network] = []
    for line in Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]:
        _, destination, gateway, *_ = line.split()
        if destination == "00000000" and gateway != "00000000":
            address = ipaddress.IPv4Address(struct.pack("=I", int(gateway, 16)))
            gateways.append(ipaddress.ip_network(address))
    return gateways
