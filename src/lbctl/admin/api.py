"""The admin port: health, metrics, and the JSON API that the command line speaks.

Reads ask the ports and answer at once. Of the changes, `scale`, `drain`, `undrain` and
`token/rotate` answer when it is done, or with the reason why it is not; `rollout` answers at once,
and `status` shows how far it is. Every error is `{"error": "one or two plain lines"}`, with the
last lines of a log behind them where these tell why. openapi.json, which is served too, describes
all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from lbctl.admin.answers import error_answer, failed, refused
from lbctl.admin.audit import UNKNOWN, Audit, Entry
from lbctl.admin.bodies import parse_nothing, parse_reload, parse_rollout, parse_scale
from lbctl.admin.description import openapi
from lbctl.admin.documents import (
    history_document,
    process_document,
    rollout_document,
    rotation_document,
)
from lbctl.admin.door import Bounds, Connection, Door
from lbctl.admin.live import Live
from lbctl.admin.metrics import LbCollector, registry
from lbctl.admin.overview import Overview, in_rotation, now
from lbctl.admin.pages import Pages
from lbctl.admin.past import Past
from lbctl.admin.sse import Streams
from lbctl.config import shown
from lbctl.core.iplist import timestamp
from lbctl.core.text import printable
from lbctl.errors import LbctlError, UsageError

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from lbctl.admin.auth import Access
    from lbctl.model import ControlStats
    from lbctl.ports import Fleet, Journal, Reloader, Rotator, Scaler, Traffic

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Change = Callable[[web.Request, bytes, Entry], Awaitable[web.Response]]

log = logging.getLogger("lbctl.admin")

BODY_LIMIT_BYTES = 65_536
_CHANGE = "change-"  # the beginning of the names of the routes that change something
_SAMPLE_INTERVAL_S = 1.0
_SETTLED_S = 0.25
_SHUTDOWN_S = 0.2  # who waits for a change asks again; nobody leads until this has ended
_POLICY = "Content-Security-Policy"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    _POLICY: "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "lbctl",
}
_entry: ContextVar[Entry] = ContextVar("entry")  # of the request that this task answers


@dataclass(frozen=True, slots=True)
class Facts:
    """What hardly changes while a controller lives. Addresses are "host:port"."""

    project: str
    runtime: str
    version: str
    address: str
    admin_address: str
    leader: str = ""  # the name of the lb that answers, where there are several


class AdminServer:
    """Serves one lb's admin port from `start` to `close`.

    It has what was measured sampled at a steady pace; everything else it shows is asked of its
    owner at each request.
    """

    def __init__(
        self,
        fleet: Fleet,
        traffic: Traffic,
        scaler: Scaler,
        reloader: Reloader,
        rotator: Rotator,
        stats: ControlStats,
        facts: Facts,
        access: Access,
        bounds: Bounds | None = None,
        *,
        journal: Journal,
    ) -> None:
        self._fleet = fleet
        self._traffic = traffic
        self._scaler = scaler
        self._reloader = reloader
        self._rotator = rotator
        self._stats = stats
        self._facts = facts
        self._access = access
        self._bounds = bounds or Bounds()
        self._audit = Audit(facts.leader, record=journal.record)
        self._journal = journal
        # Of the connections two fifths may watch, and half follow; the rest is for who asks.
        self._past = Past(journal, self._bounds.connections // 2)
        self._streams = Streams(max(1, self._bounds.connections * 2 // 5))
        info = {"version": facts.version, "project": facts.project, "runtime": facts.runtime}
        self._registry = registry(LbCollector(fleet, traffic, stats, info))
        self._pages = Pages()
        self._overview = Overview(fleet, traffic, scaler, stats, lambda: self._facts)
        self._live = Live(self._streams, self._overview.view, self._overview.series, now)
        self._sampler: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, listener: socket.socket) -> None:
        """Serve on a bound socket, which is closed with the server."""
        app = self.application()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        await Door(self._runner, listener, self._bounds, _HEADERS).start()
        self._sampler = asyncio.create_task(self._sample(), name="admin-sampler")

    def reached_at(self, address: str | None, admin_address: str | None) -> None:
        """Under which addresses clients reach traffic and this port; None for one not known."""
        facts = self._facts
        self._facts = replace(
            facts,
            address=address or facts.address,
            admin_address=admin_address or facts.admin_address,
        )

    def application(self) -> web.Application:
        """The routes. openapi.json has the same."""
        app = web.Application(client_max_size=BODY_LIMIT_BYTES, middlewares=[self._guarded])
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self._past.close)
        app.add_routes(
            [
                web.get("/", self._pages.index),
                web.get("/assets/{file}", self._pages.asset),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/v1/openapi.json", self._description),
                web.get("/api/v1/status", self._status),
                web.get("/api/v1/backends", self._backends),
                web.get("/api/v1/settings", self._settings),
                web.get("/api/v1/live", self._live.answer),
                *self._past.routes(),
                self._change("scale", self._scale),
                self._change("reload", self._reload),
                self._change("rollout", self._rollout),
                self._change("token/rotate", self._rotate),
                self._change("backends/{id}/drain", self._drain),
                self._change("backends/{id}/undrain", self._undrain),
            ]
        )
        return app

    async def close(self) -> None:
        """Stop serving; requests still waiting for a change are broken off."""
        if self._sampler is not None:
            self._sampler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sampler
        self._streams.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _sample(self) -> None:
        while True:
            self._overview.sample()
            self._live.beat()
            await asyncio.sleep(_SAMPLE_INTERVAL_S)

    # Who gets in, and how errors leave

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - Door makes no others
        connection.begins()
        entry = self._new_entry(request)
        _entry.set(entry)
        status = None
        try:
            response = await self._answer(request, handler, entry)
            status = response.status
        finally:
            self._audit.close(entry, status)
            connection.ends()
        if entry.action and entry.token == "held":  # noqa: S105 - a word
            # What was acknowledged is in the history.
            await self._journal.settled(_SETTLED_S)
        return response

    def _new_entry(self, request: web.Request) -> Entry:
        entry = Entry(
            client=request.remote or "",
            token=self._access.token_in(request.headers),
            agent=request.headers.get("User-Agent", ""),
            method=request.method,
            path=request.path,
        )
        name = request.match_info.route.name or ""
        if name.startswith(_CHANGE):
            entry.action = name.removeprefix(_CHANGE)
        elif request.method not in ("GET", "HEAD"):
            entry.action = UNKNOWN
        return entry

    async def _answer(
        self, request: web.Request, handler: Handler, entry: Entry
    ) -> web.StreamResponse:
        hosts, headers = request.headers.getall("Host", []), request.headers
        objection = self._access.objection(request.method, request.remote, hosts, headers)
        if objection is not None:
            return refused(entry, objection.status, objection.kind, objection.text)
        try:
            return await handler(request)
        except web.HTTPException as error:
            response = error_answer(
                error.status, f"{request.method} {request.path}: {error.reason}"
            )
            for name in ("Allow", "Retry-After"):
                if name in error.headers:
                    response.headers[name] = error.headers[name]
            return response
        except LbctlError as error:
            return failed(error)
        except Exception:
            log.exception("%s %s failed", request.method, printable(request.path))
            return error_answer(500, "the controller failed at this; its log says how")

    # Reads

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        backends = self._fleet.backends()
        if not in_rotation(backends):
            if self._stats.discovery_synced_monotonic_s is None:
                return error_answer(503, "the runtime has not been listed yet")
            return error_answer(503, f"no backend is in rotation ({len(backends)} known)")
        return web.Response(text="ready\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        self._traffic.keep()  # or the next leader's counters might be lower than these
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = encoder(self._registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _description(self, _request: web.Request) -> web.Response:
        return web.json_response(openapi(self._facts.version))

    async def _status(self, _request: web.Request) -> web.Response:
        membership = self._fleet.membership()
        backends = self._fleet.backends()
        facts, changed_at = self._facts, self._rotator.changed_at
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
                "in_rotation": in_rotation(backends),
                "leader": facts.leader,
                "settings": shown(self._reloader.settings()),
                "tokens": {
                    "rotating": self._rotator.rotating,
                    "changed_at": None if changed_at is None else timestamp(changed_at),
                },
                "runtime_problem": self._runtime_problem(),
                "rollout": rollout_document(self._scaler.rollout),
                "healing": {
                    "state": self._scaler.healing.state.value,
                    "message": self._scaler.healing.message,
                },
                "history": history_document(self._stats.history),
                "processes": [process_document(one) for one in self._traffic.processes()],
                "backends": self._overview.rows(backends),
            }
        )

    def _runtime_problem(self) -> str:
        stats = self._stats
        if stats.discovery_problem or stats.discovery_synced_monotonic_s is not None:
            return printable(stats.discovery_problem)
        return "the runtime has not been listed yet"

    async def _backends(self, _request: web.Request) -> web.Response:
        return web.json_response({"backends": self._overview.rows(self._fleet.backends())})

    async def _settings(self, request: web.Request) -> web.Response:
        """As they are: what status does not show of them may be a secret."""
        if not self._access.holds_token(request.headers):
            return refused(_entry.get(), 401, "token", "the settings need the admin token")
        return web.json_response({"settings": dict(self._reloader.settings())})

    # Changes

    def _change(self, path: str, change: Change) -> web.RouteDef:
        """The route of what takes the token, and a body of JSON."""

        async def carry_out(request: web.Request) -> web.Response:
            entry = _entry.get()
            if not self._access.holds_token(request.headers):
                return refused(entry, 401, "token", "changes need the admin token")
            if request.content_type != "application/json":
                return refused(entry, 415, "content-type", "the body must be application/json")
            if "Content-Encoding" in request.headers:
                return refused(entry, 415, "content-type", "the body must not be compressed")
            try:
                async with asyncio.timeout(self._bounds.head_s):
                    raw = await request.read()
            except TimeoutError:
                return refused(entry, 408, "body", "the body did not come in time")
            except web.HTTPRequestEntityTooLarge:
                text = f"the body is longer than {BODY_LIMIT_BYTES} bytes"
                return refused(entry, 413, "body", text)
            try:
                return await change(request, raw, entry)
            except UsageError:
                entry.refused = "" if entry.parameters is not None else "body"
                raise

        name = path.removeprefix("backends/{id}/").replace("/", "-")
        return web.post(f"/api/v1/{path}", carry_out, name=_CHANGE + name)

    async def _scale(self, request: web.Request, raw: bytes, entry: Entry) -> web.Response:
        replicas = parse_scale(raw)
        entry.parameters = {"replicas": replicas}
        before = in_rotation(self._fleet.backends())
        log.info("scale to %d, asked by %s", replicas, request.remote)
        await self._scaler.scale(replicas)
        return web.json_response(
            {
                "replicas": replicas,
                "previous": before,
                "generation": self._fleet.membership().generation,
            }
        )

    async def _reload(self, request: web.Request, raw: bytes, entry: Entry) -> web.Response:
        settings = parse_reload(raw)
        entry.parameters = {"settings": shown(settings or {})}
        log.info("reload, asked by %s", request.remote)
        await self._reloader.reload(settings)
        return web.json_response({"settings": shown(self._reloader.settings())})

    async def _rollout(self, request: web.Request, raw: bytes, entry: Entry) -> web.Response:
        image, batch = parse_rollout(raw)
        entry.parameters = {"image": image, "batch": batch}
        log.info("rollout of %r, asked by %s", printable(image), request.remote)
        rollout = await self._scaler.roll_out(image, batch)
        return web.json_response({"rollout": rollout_document(rollout)}, status=202)

    async def _rotate(self, request: web.Request, raw: bytes, entry: Entry) -> web.Response:
        parse_nothing(raw)
        entry.parameters = {}
        log.info("rotation of the tokens, asked by %s", request.remote)
        return web.json_response(rotation_document(await self._rotator.rotate()))

    async def _drain(self, request: web.Request, raw: bytes, entry: Entry) -> web.Response:
        return await self._by_hand(request, raw, entry, self._scaler.drain)

    async def _undrain(self, request: web.Request, raw: bytes, entry: Entry) -> web.Response:
        return await self._by_hand(request, raw, entry, self._scaler.undrain)

    async def _by_hand(
        self,
        request: web.Request,
        raw: bytes,
        entry: Entry,
        change: Callable[[str], Awaitable[None]],
    ) -> web.Response:
        parse_nothing(raw)
        backend_id = request.match_info["id"]
        known = self._row_of(backend_id)
        name = None if known is None else printable(known["name"])
        entry.parameters = {"backend": printable(backend_id, 64), "name": name}
        if known is None:
            return error_answer(404, f"no backend has the id {printable(backend_id, 64)}")
        log.info("%s, asked by %s", printable(request.path), request.remote)
        await change(backend_id)
        row = self._row_of(backend_id)
        if row is None:
            return error_answer(409, "the backend went away meanwhile")
        return web.json_response(row)

    def _row_of(self, backend_id: str) -> dict[str, Any] | None:
        rows = self._overview.rows([one for one in self._fleet.backends() if one.id == backend_id])
        return rows[0] if rows else None


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    own = response.headers.get(_POLICY)  # a page's
    response.headers.update(_HEADERS)
    if own is not None:
        response.headers[_POLICY] = own
    if (entry := _entry.get(None)) is not None:
        response.headers["X-Request-Id"] = entry.request_id
