"""The controller: everything that decides, on one event loop.

It may die at any time: the workers route on, the next one restores the membership and goes
on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from lbctl import __version__, tokens
from lbctl.admin.api import AdminServer, Facts
from lbctl.admin.auth import LOOPBACK, Access
from lbctl.control.discovery import Discovery
from lbctl.control.http import HttpListWriter, HttpProbe
from lbctl.control.reconciler import Reconciler
from lbctl.control.scaler import Scaler
from lbctl.control.store import JsonFile
from lbctl.errors import LbctlError
from lbctl.model import ControlStats
from lbctl.process.host import SupervisorClient
from lbctl.process.hub import Hub
from lbctl.runtime.containers import ADMIN_PORT, BACKEND_IMAGE, TRAFFIC_PORT
from lbctl.runtime.docker import DockerRuntime
from lbctl.runtime.engine import Engine
from lbctl.runtime.local import LocalRuntime

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lbctl.admin.auth import Network
    from lbctl.config import Config
    from lbctl.model import Process, TrafficTotals
    from lbctl.paths import Paths
    from lbctl.ports import Runtime

_log = logging.getLogger("lbctl.controller")

_RETRY_S = 1.0
_WORKERS_DEADLINE_S = 1.0


def main(
    config: Config,
    paths: Paths,
    *,
    admin: socket.socket,
    workers: socket.socket,
    supervisor: socket.socket,
    worker_uids: Collection[int],
) -> None:
    """Run until SIGTERM. The sockets are the supervisor's; they outlive this process."""
    controller = Controller(config, paths, worker_uids)
    uvloop.run(controller.run(admin, workers, supervisor))


class Controller:
    """Puts the control plane together."""

    def __init__(self, config: Config, paths: Paths, worker_uids: Collection[int]) -> None:
        self._config = config
        self._paths = paths
        self._stats = ControlStats()
        self._supervisor = SupervisorClient()
        self._hub = Hub(paths, worker_uids, self._suspect)
        self._reconciler: Reconciler | None = None

    async def run(
        self, admin: socket.socket, workers: socket.socket, supervisor: socket.socket
    ) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor's to decide
        await self._ensure_tokens()
        await self._supervisor.connect(supervisor)
        await self._hub.start(workers)
        async with contextlib.AsyncExitStack() as cleanup:
            cleanup.push_async_callback(self._hub.close)
            controlling = loop.create_task(self._control(admin, cleanup))
            stopping = loop.create_task(stop.wait())
            await asyncio.wait({controlling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not controlling.done():
                controlling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await controlling

    async def _control(self, admin: socket.socket, cleanup: contextlib.AsyncExitStack) -> None:
        config, paths = self._config, self._paths
        runtime = await self._runtime()
        cleanup.push_async_callback(runtime.close)
        probe = HttpProbe(config.health.probe_timeout_s)
        cleanup.push_async_callback(probe.close)
        writer = HttpListWriter(config.control.publish_timeout_s, lambda: tokens.read(paths.token))
        cleanup.push_async_callback(writer.close)
        reconciler = self._reconciler = Reconciler(
            config.health,
            config.control,
            probe=probe,
            writer=writer,
            routes=self._hub,
            store=JsonFile(paths.membership),
            stats=self._stats,
        )
        discovery = Discovery(runtime, config.control, self._stats, reconciler.observe)
        scaler = Scaler(
            runtime,
            reconciler,
            self._hub,
            config.control,
            JsonFile(paths.scale),
            discovery.look,
        )
        cleanup.push_async_callback(scaler.close)
        server = AdminServer(
            reconciler,
            _Traffic(self._hub, self._supervisor),
            scaler,
            self._stats,
            await self._facts(runtime),
            Access(self._admin_token, _open_networks),
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(reconciler.run())
            group.create_task(discovery.run())
            # A scrape before the workers have told what they counted would go back.
            await self._hub.connected(_worker_processes(self._supervisor), _WORKERS_DEADLINE_S)
            await server.start(admin)
            cleanup.push_async_callback(server.close)

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
        image = self._config.deploy.backend_image or BACKEND_IMAGE
        while True:
            try:
                return DockerRuntime(await Engine.connect(), self._config.project, image)
            except LbctlError as error:
                _log.warning("%s; trying again", error)
                await asyncio.sleep(_RETRY_S)

    async def _facts(self, runtime: Runtime) -> Facts:
        """Addresses are those that clients use: in a container the published ones."""
        config = self._config
        published: dict[str, str] = {}
        if isinstance(runtime, DockerRuntime):
            published = await runtime.published(socket.gethostname())
        return Facts(
            project=config.project,
            runtime=runtime.name,
            version=__version__,
            address=published.get(TRAFFIC_PORT, f"{config.bind or '0.0.0.0'}:{config.port}"),
            admin_address=published.get(ADMIN_PORT, f"{config.admin_bind}:{config.admin_port}"),
        )

    def _suspect(self, backend_id: str) -> None:
        if self._reconciler is not None:
            self._reconciler.suspect(backend_id)

    def _admin_token(self) -> str:
        try:
            return tokens.read(self._paths.admin_token)
        except LbctlError as error:
            _log.warning("%s", error)
            return ""


class _Traffic:
    """ports.Traffic, put together from its two halves."""

    def __init__(self, hub: Hub, supervisor: SupervisorClient) -> None:
        self._hub = hub
        self._supervisor = supervisor

    def totals(self) -> TrafficTotals:
        return self._hub.totals()

    def processes(self) -> Sequence[Process]:
        return self._supervisor.processes()


def _worker_processes(supervisor: SupervisorClient) -> int:
    return sum(process.role == "worker" for process in supervisor.processes())


def _open_networks() -> list[Network]:
    """Who may read without a token: this machine; in a container also the network's gateway,
    which is whom the published loopback port comes from.
    """
    if not Path("/.dockerenv").exists():
        return list(LOOPBACK)
    return [*LOOPBACK, *_gateways()]


def _gateways() -> list[Network]:
    """Gateways of the default routes (Linux: /proc/net/route, addresses in host order)."""
    gateways: list[Network] = []
    for line in Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]:
        _, destination, gateway, *_ = line.split()
        if destination == "00000000" and gateway != "00000000":
            address = ipaddress.IPv4Address(struct.pack("=I", int(gateway, 16)))
            gateways.append(ipaddress.ip_network(address))
    return gateways
