"""The admin port: health, metrics, and the JSON API that the command line speaks.

Reads ask the ports and answer at once. The one change, `POST /api/v1/scale`, answers when the
list on every backend says so, or with the reason why it does not. Every error is
`{"error": "one or two plain lines"}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from lbctl.admin.auth import Access, is_cross_site
from lbctl.admin.metrics import LbCollector, registry
from lbctl.admin.rates import IDLE, Rate, RateWindow
from lbctl.config import MAX_REPLICAS
from lbctl.core.iplist import timestamp
from lbctl.core.text import printable
from lbctl.errors import (
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    LbctlError,
    OperationError,
    UsageError,
)
from lbctl.model import State

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from lbctl.model import BackendStatus, ControlStats
    from lbctl.ports import Fleet, Scaler, Traffic

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger("lbctl.admin")

BODY_LIMIT_BYTES = 65_536
_SAMPLE_INTERVAL_S = 1.0
_SHUTDOWN_S = 1.0
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while a controller lives. Addresses are "host:port"."""

    project: str
    runtime: str
    version: str
    address: str
    admin_address: str


class AdminServer:
    """Serves one lb's admin port from `start` to `close`.

    It owns the window of samples that req/s and p99 come from; everything else it shows is
    asked of its owner at each request.
    """

    def __init__(
        self,
        fleet: Fleet,
        traffic: Traffic,
        scaler: Scaler,
        stats: ControlStats,
        facts: Facts,
        access: Access,
    ) -> None:
        self._fleet = fleet
        self._traffic = traffic
        self._scaler = scaler
        self._stats = stats
        self._facts = facts
        self._access = access
        info = {"version": facts.version, "project": facts.project, "runtime": facts.runtime}
        self._registry = registry(LbCollector(fleet, traffic, stats, info))
        self._window = RateWindow()
        self._sampler: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, listener: socket.socket) -> None:
        """Serve on a bound socket, which is closed with the server."""
        app = web.Application(client_max_size=BODY_LIMIT_BYTES, middlewares=[self._guarded])
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/v1/status", self._status),
                web.get("/api/v1/backends", self._backends),
                web.post("/api/v1/scale", self._scale),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()
        self._sampler = asyncio.create_task(self._sample(), name="admin-sampler")

    async def close(self) -> None:
        """Stop serving; requests still waiting for a change are broken off."""
        if self._sampler is not None:
            self._sampler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sampler
        if self._runner is not None:
            await self._runner.cleanup()

    async def _sample(self) -> None:
        while True:
            self._window.observe(time.monotonic(), self._traffic.totals())
            await asyncio.sleep(_SAMPLE_INTERVAL_S)

    # Who gets in, and how errors leave

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await self._answer(request, handler)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        free = request.path == "/healthz"
        if not free and not self._access.may_read(request.remote, request.headers):
            return _unauthorized("the admin token is needed to read from this address")
        try:
            return await handler(request)
        except web.HTTPException as error:
            response = _error(error.status, f"{request.method} {request.path}: {error.reason}")
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response
        except LbctlError as error:
            return _error(_status_of(error), str(error))
        except Exception:
            log.exception("%s %s failed", request.method, printable(request.path))
            return _error(500, "the controller failed at this; its log says how")

    # Reads

    async def _index(self, _request: web.Request) -> web.Response:
        project = html.escape(self._facts.project)
        links = "".join(
            f'<li><a href="{path}">{path}</a>: {what}'
            for path, what in (
                ("/api/v1/status", "the processes and every backend"),
                ("/api/v1/backends", "every backend"),
                ("/metrics", "for Prometheus"),
                ("/readyz", "whether a backend is in rotation"),
                ("/healthz", "whether the controller runs"),
            )
        )
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>lbctl {project}</title>'
            f"<h1>lbctl {html.escape(self._facts.version)}, project {project}</h1><ul>{links}</ul>"
        )
        return web.Response(text=page, content_type="text/html")

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._stats.discovery_synced_monotonic_s is None:
            return _error(503, "the runtime has not been listed yet")
        backends = self._fleet.backends()
        if not _in_rotation(backends):
            return _error(503, f"no backend is in rotation ({len(backends)} known)")
        return web.Response(text="ready\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = encoder(self._registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _status(self, _request: web.Request) -> web.Response:
        membership = self._fleet.membership()
        backends = self._fleet.backends()
        facts = self._facts
        return web.json_response(
            {
                "project": facts.project,
                "runtime": facts.runtime,
                "version": facts.version,
                "address": facts.address,
                "admin_address": facts.admin_address,
                "replicas": self._scaler.replicas,
                "generation": membership.generation,
                "updated_at": timestamp(membership.updated_at),
                "in_rotation": _in_rotation(backends),
                "processes": [
                    {
                        "role": process.role,
                        "name": process.name,
                        "pid": process.pid,
                        "restarts": process.restarts,
                        "started_at": timestamp(process.started_at),
                    }
                    for process in self._traffic.processes()
                ],
                "backends": self._rows(backends),
            }
        )

    async def _backends(self, _request: web.Request) -> web.Response:
        return web.json_response({"backends": self._rows(self._fleet.backends())})

    def _rows(self, backends: Sequence[BackendStatus]) -> list[dict[str, Any]]:
        totals = self._traffic.totals()
        rates = self._window.rates(time.monotonic(), totals)
        in_flight = {id_: traffic.in_flight for id_, traffic in totals.backends.items()}
        return [
            _row(status, in_flight.get(status.id, 0), rates.get(status.id, IDLE))
            for status in backends
        ]

    # Changes

    async def _scale(self, request: web.Request) -> web.Response:
        if is_cross_site(request.headers):
            return _error(403, "changes are not taken from another site's page")
        if not self._access.holds_token(request.headers):
            return _unauthorized("changes need the admin token")
        if request.content_type != "application/json":
            return _error(415, "the body must be application/json")
        replicas = parse_scale(await request.read())
        before = _in_rotation(self._fleet.backends())
        log.info("scale to %d, asked by %s", replicas, request.remote)
        await self._scaler.scale(replicas)
        return web.json_response(
            {
                "replicas": replicas,
                "previous": before,
                "generation": self._fleet.membership().generation,
            }
        )


def parse_scale(raw: bytes) -> int:
    """The number in `{"replicas": N}`. Raises UsageError for anything else at all."""
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise UsageError("the body is not JSON") from None
    if not isinstance(document, dict):
        raise UsageError('the body must be an object: {"replicas": N}')
    unknown = sorted(set(document) - {"replicas"})
    if unknown:
        raise UsageError(f"unknown key {printable(unknown[0], 40)!r}; the only one is 'replicas'")
    replicas = document.get("replicas")
    # bool is an int to Python, not to whoever wrote the body.
    if type(replicas) is not int or not 1 <= replicas <= MAX_REPLICAS:
        raise UsageError(f"replicas must be a whole number from 1 to {MAX_REPLICAS}")
    return replicas


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: two readers of one body must not see two numbers."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key stands twice")
    return document


def _in_rotation(backends: Sequence[BackendStatus]) -> int:
    return sum(status.state is State.UP for status in backends)


def _row(status: BackendStatus, in_flight: int, rate: Rate) -> dict[str, Any]:
    return {
        "id": status.id,
        "name": status.name,
        "ip": status.ip,
        "port": status.port,
        "weight": status.weight,
        "state": status.state.value,
        "reason": status.reason,
        "since": timestamp(status.since),
        "in_flight": in_flight,
        "requests_per_second": round(rate.requests_per_second, 1),
        "p99_ms": None if rate.p99_s is None else round(rate.p99_s * 1000, 3),
        "published_generation": status.published_generation,
        "last_check": status.last_check,
    }


def _status_of(error: LbctlError) -> int:
    match error:
        case UsageError():
            return 400
        case DeadlineError():
            return 504
        case EngineError() | EngineUnavailableError():
            return 502
        case OperationError():
            return 409  # it may not be done as things stand: overtaken by a newer wish, say
        case _:
            return 500


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


def _unauthorized(text: str) -> web.Response:
    response = _error(401, text)
    response.headers["WWW-Authenticate"] = "Bearer"
    return response
