"""The admin port, as the command line speaks to it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any, TypedDict, cast

import aiohttp

from lbctl.core.text import printable
from lbctl.errors import DeadlineError, OperationError, UsageError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_ANSWER_TIMEOUT_S = 5.0
_RETRY_INTERVAL_S = 0.05
_LIST_LIMIT_BYTES = 1 << 20


class ProcessRow(TypedDict):
    """A process of the lb; times are ISO 8601 in UTC."""

    role: str
    name: str
    pid: int
    restarts: int
    started_at: str


class BackendRow(TypedDict):
    """A known backend, in or out of rotation."""

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
    p99_ms: float | None
    published_generation: int
    last_check: str


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
    processes: list[ProcessRow]
    backends: list[BackendRow]


class AdminClient:
    """One admin port; `async with` closes the connections.

    Every call raises OperationError with the port's own reason, or with why it does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S)
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

    async def scale(self, replicas: int, token: str, timeout_s: float) -> None:
        """Return when every list holds `replicas` backends. Raises DeadlineError that names
        who lags.
        """
        await self._ask(
            "POST",
            "/api/v1/scale",
            json={"replicas": replicas},
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        )

    async def served_list(self, url: str) -> str:
        """What `curl -s URL/` shows."""
        try:
            async with self._session.get(url + "/") as response:
                body = await response.content.read(_LIST_LIMIT_BYTES)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OperationError(f"{url} does not answer: {_why(error)}") from error
        if response.status != 200:
            raise OperationError(f"{url} answered {response.status}")
        return body.decode(errors="replace")

    async def _ask(self, method: str, path: str, **options: Any) -> str:
        try:
            async with self._session.request(method, self._url + path, **options) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OperationError(
                f"the admin port {self._url} does not answer: {_why(error)}"
            ) from error
        if response.status >= 400:
            raise _refusal(response.status, text)
        return text


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
    plain = "\n".join(printable(line, 500) for line in reason.splitlines()[:2])
    if status == 400:
        return UsageError(plain)
    return DeadlineError(plain) if status == 504 else OperationError(plain)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientConnectorError):
        # asyncio puts its own words into strerror; the errno's are the plain ones.
        number = error.os_error.errno
        return os.strerror(number).lower() if number else printable(str(error.os_error))
    return printable(str(error)) or type(error).__name__
