"""The admin port, as the command line speaks to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, cast
from urllib.parse import quote

import aiohttp

from lbctl import __version__
from lbctl.cli.eventstream import EventReader
from lbctl.core.text import printable
from lbctl.errors import DeadlineError, OperationError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable
    from types import TracebackType
    from typing import Self

    from lbctl.deploy import FoundStack

_ANSWER_TIMEOUT_S = 5.0
_RETRY_INTERVAL_S = 0.05
_RELOAD_TIMEOUT_S = 60.0
_ROTATE_TIMEOUT_S = 30.0  # the lb gives up on backends after 10
_STREAM_TIMEOUT_S = 45.0  # three comments of an idle stream that did not come
_HANDOVER_S = 2.0
_LIST_LIMIT_BYTES = 1 << 20
_SHOWN = (200, 403, 429)  # the last two where limits of client networks hold for us too
_REASON_LINES = 8  # two, and the last lines of a log


class NoAnswerError(OperationError):
    """Nobody answers on the admin port, or not to the end."""


class WrongTokenError(OperationError):
    """The token is not, or no longer, the right one."""


class ProcessRow(TypedDict):
    """A process of the lb; times are ISO 8601 in UTC."""

    lb: str
    role: str
    name: str
    pid: int
    restarts: int
    started_at: str


class ChecksRow(TypedDict):
    """The last checks of a backend, which all passed or all failed."""

    passed: bool
    in_a_row: int


class EjectionRow(TypedDict):
    """What requests that failed on a backend made of it. `failure` is a value of model.Failure."""

    failure: str
    ends_at: str
    lasts_s: float
    times: int
    passes: int


class BackendRow(TypedDict):
    """A known backend, in or out of rotation. `state` and `cause` are values of the model's."""

    id: str
    name: str
    ip: str
    port: int
    weight: int
    state: str
    reason: str
    since: str
    in_flight: int
    requests_per_second: float
    error_ratio: float | None
    p50_ms: float | None
    p99_ms: float | None
    published_generation: int
    last_check: str
    cause: str
    checks: ChecksRow
    publish: bool
    revision: int
    ejection: EjectionRow | None


class RolloutRow(TypedDict):
    """The last rollout. `state` is a value of model.RolloutState."""

    revision: int
    image: str
    state: str
    replaced: int
    total: int
    message: str


class HealingRow(TypedDict):
    """What the healer is at. `state` is a value of model.HealingState."""

    state: str
    message: str


class TokensRow(TypedDict):
    """How old the tokens are, and whether those of before are valid still."""

    rotating: bool
    changed_at: str | None


class LaggardRow(TypedDict):
    """A backend that did not take the new token in time."""

    name: str
    reason: str


class RotationRow(TypedDict):
    """`POST /api/v1/token/rotate`."""

    backends: int
    lagging: list[LaggardRow]
    spread_ms: float


class HistoryRow(TypedDict):
    """Whether the past is written down. `state` is a value of model.HistoryState."""

    state: str
    message: str
    lost: int
    events: int


class MemberRow(TypedDict):
    """A backend on a list of the past."""

    ip: str
    id: str
    name: str
    since: str


class GenerationRow(TypedDict):
    """A list of the past, valid since `at`."""

    seq: int
    generation: int
    at: str
    reason: str
    joined: list[str]
    left: list[str]
    members: list[MemberRow]


class EventRow(TypedDict):
    """Something that happened. `kind` is a value of core.history.Kind."""

    seq: int
    at: str
    kind: str
    subject: str
    text: str
    data: dict[str, Any]


class Status(TypedDict):
    """`GET /api/v1/status`."""

    project: str
    runtime: str
    version: str
    address: str
    admin_address: str
    replicas: int | None
    generation: int
    updated_at: str
    in_rotation: int
    leader: str
    settings: dict[str, Any]
    tokens: TokensRow
    runtime_problem: str
    rollout: RolloutRow | None
    healing: HealingRow
    history: NotRequired[HistoryRow]
    processes: list[ProcessRow]
    backends: list[BackendRow]


class AdminClient:
    """One admin port; `async with` closes the connections.

    Every call raises OperationError with the port's own reason, or with why it does not answer;
    a change that this lb does not know raises UnsupportedError.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S),
            headers={"User-Agent": f"lbctl/{__version__}"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def status(self) -> Status:
        """The status as the port tells it."""
        return cast("Status", _document(await self.status_text()))

    async def status_text(self) -> str:
        """The same, byte for byte."""
        return await self._ask("GET", "/api/v1/status")

    async def settings(self, token: str) -> dict[str, Any]:
        """Every setting as it is; status does not show what may be a secret."""
        answer = await self._ask("GET", "/api/v1/settings", headers=_bearer(token))
        settings = _document(answer)["settings"]
        return dict(settings)

    async def generations(self, query: dict[str, str]) -> list[GenerationRow]:
        """`GET /api/v1/history`, one page of it."""
        return cast("list[GenerationRow]", await self._page("history", "generations", query))

    async def events(self, query: dict[str, str]) -> list[EventRow]:
        """What happened, one page of it."""
        return cast("list[EventRow]", await self._page("events", "events", query | {"follow": "0"}))

    async def _page(self, path: str, name: str, query: dict[str, str]) -> list[dict[str, Any]]:
        rows = _document(await self._ask("GET", f"/api/v1/{path}", params=query)).get(name)
        if not isinstance(rows, list):
            raise OperationError(f"the admin port's answer has no {name}")
        return rows

    async def follow(self, after: int) -> AsyncIterator[EventRow]:
        """What happens, from the event behind this number on, until the lb ends the stream. One
        that says nothing for so long that it must be gone raises NoAnswerError.
        """
        timeout = aiohttp.ClientTimeout(sock_connect=_ANSWER_TIMEOUT_S, sock_read=_STREAM_TIMEOUT_S)
        headers = {"Accept": "text/event-stream"}
        path, query = "/api/v1/events", {"after": str(after)}
        reader = EventReader()
        try:
            async with self._session.get(
                self._url + path, params=query, headers=headers, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.text(errors="replace"))
                async for data in response.content.iter_any():
                    for text in reader.feed(data):
                        yield cast("EventRow", _document(text))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswerError(f"{self._url} does not answer: {_why(error)}") from error

    async def metrics_text(self) -> str:
        """`GET /metrics`, in Prometheus' text format."""
        return await self._ask("GET", "/metrics")

    async def healthy(self, within_s: float) -> None:
        """Return as soon as the controller answers. Raises DeadlineError with what was wrong
        at the last try.
        """
        end_s = time.monotonic() + within_s
        while True:
            try:
                await self._ask("GET", "/healthz")
            except OperationError as error:
                if time.monotonic() > end_s:
                    raise DeadlineError(
                        f"the lb started, but is not well after {within_s:g} s: {error}\n"
                        "`lbctl logs` shows what it says"
                    ) from error
                await asyncio.sleep(_RETRY_INTERVAL_S)
            else:
                return

    async def missing(self, lbs: Collection[str], within_s: float) -> list[str]:
        """Wait until the controller that leads knows those of all these lbs, or so long. Returns
        the names of those that it does not know. Raises NoAnswerError where none leads.
        """
        end_s = time.monotonic() + within_s
        while lbs:
            late = time.monotonic() > end_s
            try:
                missing = set(lbs) - lbs_of(controllers(await self.status()))
                if late or not missing:
                    return sorted(missing)
            except NoAnswerError:
                if late:
                    raise
            await asyncio.sleep(_RETRY_INTERVAL_S)
        return []

    async def scale(self, replicas: int, token: str, timeout_s: float) -> None:
        """Return when every list holds `replicas` backends. Raises DeadlineError that names
        who lags.
        """
        await self._change("scale", {"replicas": replicas}, token, timeout_s)

    async def by_hand(
        self, change: Literal["drain", "undrain"], backend_id: str, token: str, timeout_s: float
    ) -> BackendRow:
        """Take a backend out, or let it in; returns its row when that is done."""
        path = f"backends/{quote(backend_id, safe='')}/{change}"
        return cast("BackendRow", _document(await self._change(path, {}, token, timeout_s)))

    async def roll_out(self, image: str, batch: int, token: str) -> RolloutRow:
        """Begin a rollout. It goes on by itself: `status` tells how far it is."""
        body = {"batch": batch} | ({"image": image} if image else {})
        answer = _document(await self._change("rollout", body, token, _ANSWER_TIMEOUT_S))
        return cast("RolloutRow", answer["rollout"])

    async def rotate_tokens(self, token: str) -> RotationRow:
        """Return when the tokens of before, this one among them, are refused."""
        answer = await self._change("token/rotate", {}, token, _ROTATE_TIMEOUT_S)
        return cast("RotationRow", _document(answer))

    async def _change(self, path: str, body: dict[str, Any], token: str, timeout_s: float) -> str:
        return await self._ask(
            "POST",
            f"/api/v1/{path}",
            json=body,
            headers=_bearer(token),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        )

    async def reload(self, settings: dict[str, Any] | None, token: str) -> None:
        """Return when all workers and controllers are new ones, with these settings. Raises
        UsageError for settings that cannot be used; then, as after any error, the old ones go on.
        """
        before = controllers(await self.status())
        await self._ask(
            "POST",
            "/api/v1/reload",
            json={} if settings is None else {"settings": settings},
            headers=_bearer(token),
            timeout=aiohttp.ClientTimeout(total=_RELOAD_TIMEOUT_S),
        )

        end_s = time.monotonic() + _RELOAD_TIMEOUT_S
        # What is asked of a controller that is about to be renewed would be broken off.
        while True:
            with contextlib.suppress(NoAnswerError):  # for now
                if not before & controllers(await self.status()):
                    return
            if time.monotonic() > end_s:
                raise DeadlineError("the controllers were not renewed after the reload")
            await asyncio.sleep(_RETRY_INTERVAL_S)

    async def served_list(self, url: str) -> str:
        """What `curl -s URL/` shows: the list, or that this machine may not see it."""
        try:
            # It is this machine's own stack, asked by address: no certificate is for that.
            async with self._session.get(url + "/", ssl=False) as response:
                body = await response.content.read(_LIST_LIMIT_BYTES)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswerError(f"{url} does not answer: {_why(error)}") from error
        if response.status not in _SHOWN:
            raise OperationError(f"{url} answered {response.status}")
        return body.decode(errors="replace")

    async def _ask(self, method: str, path: str, **options: Any) -> str:
        end_s = time.monotonic() + _HANDOVER_S
        while True:
            try:
                async with self._session.request(method, self._url + path, **options) as response:
                    text = await response.text(errors="replace")
                break
            except (aiohttp.ClientError, TimeoutError) as error:
                # While one controller takes another's place the port may be closed, or close.
                unheard = method == "GET" or isinstance(error, aiohttp.ClientConnectorError)
                timed_out = isinstance(error, TimeoutError)
                if unheard and not timed_out and time.monotonic() < end_s:
                    await asyncio.sleep(_RETRY_INTERVAL_S)
                    continue
                raise NoAnswerError(
                    f"the admin port {self._url} does not answer: {_why(error)}"
                ) from error
        if response.status >= 400:
            raise _refusal(response.status, text)
        return text


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def controllers(status: Status) -> set[tuple[str, int, str]]:
    """Those that run: (lb, pid, started at)."""
    return {
        (process["lb"], process["pid"], process["started_at"])
        for process in status["processes"]
        if process["role"] == "controller"
    }


def lbs_of(controllers: Iterable[tuple[str, int, str]]) -> set[str]:
    return {lb for lb, *_ in controllers}


def redirects(found: FoundStack, status: Status) -> bool:
    """Whether the lb answers plain HTTP itself, with where it speaks TLS."""
    return found.tls is not None and status["settings"].get("tls_redirect") == "on"


def backends_url(found: FoundStack, status: Status) -> str:
    """Where answers come from a backend."""
    if found.tls is not None and redirects(found, status):
        return found.tls.secure_url
    return found.traffic.url


def _document(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise OperationError("the admin port's answer is not lbctl's: something else listens there")
    return document


def _refusal(status: int, text: str) -> OperationError | UsageError:
    try:
        reason = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        reason = f"the admin port answered {status}"
    plain = "\n".join(printable(line, 500) for line in reason.splitlines()[:_REASON_LINES])
    if status == 400:
        return UsageError(plain)
    if status == 401:
        hint = "if the tokens were rotated just now, run it again: it reads the new one"
        return WrongTokenError(f"{plain}\n{hint}")
    if status == 404 and plain.endswith(": Not Found"):  # of the path, not of a backend
        return UnsupportedError(plain)
    return DeadlineError(plain) if status == 504 else OperationError(plain)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientConnectorError):
        # asyncio puts its own words into strerror; the errno's are the plain ones.
        number = error.os_error.errno
        return os.strerror(number).lower() if number else printable(str(error.os_error))
    return printable(str(error)) or type(error).__name__
