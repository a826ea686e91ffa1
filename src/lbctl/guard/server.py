"""The guard's socket: reads a request, has core/allowlist.py decide on it, and asks the engine
itself for what the call means. Nothing that came is passed on, and of what the engine answers
only what guard/answers.py names.

Whoever connects can at worst keep the guard busy: heads, bodies, connections and streams have
limits, and a reader that does not read is left. Then nothing is scaled, and traffic goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Final

from aiohttp import web

from lbctl.control.tasks import first_of
from lbctl.core.allowlist import (
    BODY_LIMIT_BYTES,
    CHANGES,
    WITH_BODY,
    Call,
    RefusedError,
    Verb,
    check_owner,
    decide,
    read_image,
    read_release,
)
from lbctl.core.text import printable
from lbctl.errors import EngineError, EngineUnavailableError, LbctlError
from lbctl.guard import answers
from lbctl.guard.connections import Closed, Connection, listen, listens
from lbctl.runtime.containers import Names, backend_body
from lbctl.runtime.docker import shapes
from lbctl.runtime.engine import Engine
from lbctl.runtime.guarded import NO_ENGINE_STATUS, UNNAMED
from lbctl.runtime.transport import EngineRefusedError
from lbctl.sockets import is_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from lbctl.core.allowlist import Shapes
    from lbctl.runtime.containers import Json

_log = logging.getLogger("lbctl.guard")

_CONNECTIONS: Final = 128
_STREAMS: Final = 8
_IMAGES: Final = 16
_BODY_S: Final = 5.0
_END_S: Final = 1.0  # for what is under way when the guard ends
_LOG_LINE_BYTES: Final = 4096


class GuardServer:
    """Answers on one unix socket for one project. `image` is what backends are made from;
    `admin_token` reads the token that may name others, and raises LbctlError if it cannot;
    `retiring` the one of before while a rotation is under way, else "".
    """

    def __init__(
        self,
        project: str,
        image: str,
        admin_token: Callable[[], str],
        retiring: Callable[[], str] = str,
    ) -> None:
        self._names = Names(project)
        self._shapes = shapes(self._names)
        self._image = image
        self._named: dict[str, None] = {}  # in order of naming
        self._admin_token = admin_token
        self._retiring = retiring
        self._life = secrets.token_hex(8)
        self._requests = 0
        self._refused: Counter[str] = Counter()
        self._engine: Engine | None = None
        self._connecting = asyncio.Lock()
        self._users: Counter[Engine] = Counter()  # calls under way
        self._streams: list[asyncio.Event] = []  # each ends one
        self._web: web.Server | None = None
        self._listening: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Listen in the place of the guard before. Raises OperationError."""
        # Who hangs up has no use for an event.
        self._web = web.Server(self._answer, handler_cancellation=True)
        await self._listen(path)

    async def keep_place(self) -> None:
        """Listen anew where another guard has taken the place at the socket and is gone: it was to
        be the next one, and did not become it. Raises OperationError.
        """
        assert self._listening is not None  # noqa: S101 - it was started
        path, place = self._place
        if is_at(path, place) or await listens(path):
            return
        _log.warning("nobody listens at %s any more: this guard does again", path)
        before = self._listening
        await self._listen(path)
        before.close()

    async def _listen(self, path: Path) -> None:
        bound, place = listen(path, _CONNECTIONS)
        self._place = path, place
        self._listening = await asyncio.get_running_loop().create_unix_server(
            self._accept, sock=bound
        )

    async def close(self) -> None:
        """End all streams, and what else is under way."""
        if self._listening is not None:
            self._listening.close()
        for ended in self._streams:
            ended.set()
        if self._web is not None:
            await self._web.shutdown(_END_S)
        self._users.clear()
        await self._let_go(self._engine)

    def _accept(self) -> asyncio.Protocol:
        assert self._web is not None  # noqa: S101 - nobody listens otherwise
        if len(self._web.connections) >= _CONNECTIONS:
            return Closed()
        return Connection(self._web, self._no_http)

    # One request

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - _accept makes no others
        connection.begins()
        try:
            return await self._answer_to(request)
        finally:
            connection.ends()

    async def _answer_to(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            call = _read(request, self._shapes)
            if call.verb is not Verb.COUNTERS:
                self._requests += 1
        except RefusedError as refusal:
            self._requests += 1
            return self._refusal(request, refusal)
        try:
            return await self._carry_out(call, request)
        except RefusedError as refusal:
            return self._refusal(request, refusal)
        except EngineRefusedError as error:
            return _message(error.status, error.message)
        except EngineUnavailableError as error:
            return _message(NO_ENGINE_STATUS, str(error).partition("\n")[0])
        except EngineError as error:
            return _message(500, str(error))

    def _no_http(self) -> web.Response:
        self._requests += 1
        self._refused["http"] += 1
        _log.warning("refused (http): what came is no HTTP, or its head is too large")
        return _message(400, "the guard refuses it: it is no HTTP, or its head is too large")

    def _refusal(self, request: web.BaseRequest, refusal: RefusedError) -> web.Response:
        self._refused[refusal.reason] += 1
        asked = f"{printable(request.method, 20)} {printable(request.raw_path)}"
        _log.warning("refused (%s): %s: %s", refusal.reason, refusal, asked)
        response = _message(403, f"the guard refuses it: {refusal}")
        response.force_close()  # what else came on this connection is not read
        return response

    async def _carry_out(self, call: Call, request: web.BaseRequest) -> web.StreamResponse:
        body = await _body(request, call)
        if call.verb is Verb.COUNTERS:
            counted = {"requests": self._requests, "refused": self._refused}
            return web.json_response({"life": self._life} | counted)
        if call.verb is Verb.IMAGE:
            return self._name_image(request, read_image(body))
        async with self._connected() as engine:
            if call.verb is Verb.EVENTS:
                return await self._follow(engine, call, request)
            if call.verb is Verb.CREATE:
                return await self._create(engine, call, body)
            if call.container:
                return await self._of_one(engine, call)
            return await self._of_all(engine, call)

    async def _of_all(self, engine: Engine, call: Call) -> web.Response:
        if call.verb in (Verb.PING, Verb.VERSION):
            facts = answers.version_of(await engine.about())
            return (
                web.json_response(facts) if call.verb is Verb.VERSION else web.Response(text="OK")
            )
        if call.verb is Verb.LIST_NAMES:
            found = await engine.containers(self._shapes.list_names)
            return web.json_response([answers.name_listed(one, self._shapes) for one in found])
        created = call.verb is Verb.LIST_CREATED
        filters = self._shapes.list_created if created else self._shapes.list_backends
        found = await engine.containers(filters)
        return web.json_response([answers.listed(one, self._names) for one in found])

    async def _of_one(self, engine: Engine, call: Call) -> web.Response:
        """What is about one container, once the engine has said whose it is."""
        facts = await engine.inspect(call.container)
        container = check_owner(call, facts, self._names.project)
        if call.verb is Verb.INSPECT:
            return web.json_response(answers.inspected(facts))
        if call.verb is Verb.LOGS:
            read = engine.logs(container, follow=False, tail=call.number)
            lines = [line[:_LOG_LINE_BYTES] async for line in read]
            terminal = bool(facts["Config"].get("Tty"))
            return web.Response(body=answers.log_of(lines[-call.number :], terminal=terminal))
        assert call.verb in CHANGES, call  # noqa: S101 - what is left
        if call.verb is Verb.START:
            await engine.start(container)
        elif call.verb is Verb.STOP:
            await engine.stop(container, call.number)
        else:
            await engine.remove(container)
        return web.Response(status=204)

    # Creating

    async def _create(self, engine: Engine, call: Call, body: bytes) -> web.Response:
        release = read_release(body)
        if release.image != self._image and release.image not in self._named:
            raise RefusedError("image", f"{UNNAMED} {release.image}")
        made = await engine.create(call.name, backend_body(self._names, release))
        _log.info("created %s from %s", call.name, release.image)
        return web.json_response({"Id": made, "Warnings": []}, status=201)

    def _name_image(self, request: web.BaseRequest, image: str) -> web.Response:
        """From now on backends may be made from it, too."""
        given = request.headers.getall("Authorization", [])
        if not self._is_admin_token(given[0] if len(given) == 1 else ""):
            raise RefusedError("token", "that is not the admin token")
        if image != self._image and image not in self._named:
            _log.info("backends may be made from %s", image)
            self._named[image] = None
            while len(self._named) > _IMAGES:
                del self._named[next(iter(self._named))]
        return web.Response(status=204)

    def _is_admin_token(self, given: str) -> bool:
        """Of a value of Authorization, in a time that tells nothing."""
        try:
            present = self._admin_token()
        except LbctlError as error:
            _log.warning("%s", error)
            raise RefusedError("token", "there is no admin token to compare with") from None
        sent = given.encode(errors="replace")
        right = False
        # The old one is read last: a rotation that began meanwhile has put it there by then. Both
        # are always compared.
        for token in (present, self._retiring()):
            same = hmac.compare_digest(sent, f"Bearer {token}".encode())
            right |= same and bool(token)
        return right

    # Events

    async def _follow(
        self, engine: Engine, call: Call, request: web.BaseRequest
    ) -> web.StreamResponse:
        """This project's events, until the engine, the reader or the guard ends it."""
        ended = asyncio.Event()
        self._streams.append(ended)
        if len(self._streams) > _STREAMS:
            self._streams[0].set()  # the oldest is the one that nobody needs
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            async with engine.events(self._shapes.events, call.since) as events:
                await response.prepare(request)
                await first_of(self._pass_on(events, response), ended.wait())
        except EngineError as error:
            if not response.prepared:
                raise
            _log.info("a stream of events ends: %s", error)
        finally:
            self._streams.remove(ended)
        with contextlib.suppress(OSError):  # it has hung up
            await response.write_eof()
        return response

    async def _pass_on(self, events: AsyncIterator[Json], response: web.StreamResponse) -> None:
        async for event in events:
            shown = answers.event_of(event, self._names)
            if shown is not None:
                await response.write(json.dumps(shown).encode() + b"\n")

    # The engine

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Engine]:
        """The engine, for one call; connected to when it is first asked. Raises
        EngineUnavailableError.
        """
        async with self._connecting:
            if self._engine is None:
                self._engine = await Engine.connect()
            engine = self._engine
            self._users[engine] += 1
        failed = False
        try:
            yield engine
        except EngineUnavailableError:
            failed = True  # the next one may be of another version
            raise
        finally:
            self._users[engine] -= 1
            if failed or engine is not self._engine:
                await self._let_go(engine)

    async def _let_go(self, engine: Engine | None) -> None:
        """Use it no more. Its last user closes it, so that no call ends under another's failure."""
        if engine is None:
            return
        if engine is self._engine:
            self._engine = None
        if self._users[engine] <= 0:
            del self._users[engine]
            await engine.close()


def _read(request: web.BaseRequest, known: Shapes) -> Call:
    call = decide(request.method, request.raw_path, known)
    if "Upgrade" in request.headers:
        raise RefusedError("upgrade", "a connection stays what it is")
    if request.body_exists and call.verb not in WITH_BODY:
        raise RefusedError("body", "no body belongs to that")
    return call


async def _body(request: web.BaseRequest, call: Call) -> bytes:
    """All of it; at most a byte more than is allowed."""
    if call.verb not in WITH_BODY:
        return b""
    if "Content-Encoding" in request.headers:
        raise RefusedError("body", "the body is encoded")
    body = b""
    try:
        async with asyncio.timeout(_BODY_S):
            while len(body) <= BODY_LIMIT_BYTES:
                chunk = await request.content.read(BODY_LIMIT_BYTES + 1 - len(body))
                if not chunk:
                    break
                body += chunk
    except TimeoutError:
        raise RefusedError("body", "the body does not come") from None
    return body


def _message(status: int, text: str) -> web.Response:
    """An error in the engine's form."""
    return web.json_response({"message": text}, status=status)
