"""Speaking HTTP to backends: checking them, and writing the list into their files.

Everything aiohttp raises is mapped into words here; nothing above this module knows it. Both
classes must be made inside the running event loop, and closed.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from lbctl.core.iplist import render_json, render_text
from lbctl.core.probing import BODY_LIMIT_BYTES, expectation
from lbctl.core.text import printable
from lbctl.errors import OperationError
from lbctl.model import ProbeResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.config import Health
    from lbctl.model import Backend, Membership

_CHUNK_BYTES = 16_384
_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "connection timed out",
    errno.EMFILE: "too many open files",
}


class HttpProbe:
    """A Probe: GET of the backend's probe path, or the settings' if it has none, on a connection
    of its own, so that it tells what the next new client would meet. A redirect is an answer
    like any other.
    """

    def __init__(self, health: Health) -> None:
        self._path = health.probe_path
        self._expectation = expectation(
            health.probe_status, health.probe_body, health.probe_headers
        )
        self._timeout_s = timeout_s = health.probe_timeout_s
        self._session = _session(
            timeout_s, aiohttp.TCPConnector(force_close=True, limit=0), user_agent="lbctl-probe"
        )

    async def __call__(self, backend: Backend) -> ProbeResult:
        """Never raises for what the backend does; the result says it in words."""
        started = time.monotonic()
        error = ""
        try:
            url = _url(backend.ip, backend.port, backend.probe_path or self._path)
            async with self._session.get(
                url, headers=self._expectation.headers, allow_redirects=False
            ) as response:
                body = await _read(response, BODY_LIMIT_BYTES)
                error = self._expectation.objection(response.status, body)
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            error = _words(problem, self._timeout_s)
        return ProbeResult(error, time.monotonic() - started)

    async def close(self) -> None:
        """Give back the sockets."""
        await self._session.close()


class HttpListWriter:
    """A ListWriter: PUT of `ips.json`, then `ips.txt`, on the backend's admin port.

    `token` returns what opens the admin port of a backend, or raises OperationError; it is asked
    before each write, so that a new token needs no restart.
    """

    def __init__(self, timeout_s: float, token: Callable[[Backend], str]) -> None:
        self._timeout_s = timeout_s
        self._token = token
        # nginx keeps idle connections for 75 s: this side must let go of them first.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        self._session = _session(timeout_s, connector, user_agent="lbctl-publisher")
        self._rendered: tuple[Membership, dict[str, bytes]] | None = None

    async def write(self, backend: Backend, membership: Membership) -> None:
        """Both files; each is replaced in one step. Raises OperationError with the reason."""
        headers = {"Authorization": f"Bearer {self._token(backend)}"}
        for path, body in self._files(membership).items():
            url = _url(backend.ip, backend.admin_port, path)
            try:
                async with self._session.put(
                    url, data=body, headers=headers, allow_redirects=False
                ) as response:
                    status = response.status
                    await _read(response, BODY_LIMIT_BYTES)
            except (aiohttp.ClientError, OSError, ValueError) as problem:
                raise OperationError(_words(problem, self._timeout_s)) from None
            if status == 401:
                raise OperationError(
                    "it refused its token: mount the project's token volume at /run/lbctl, "
                    "and use an image of this version"
                )
            if status not in (201, 204):
                raise OperationError(f"it answered {status} to PUT {path}")

    async def holds(self, backend: Backend, membership: Membership) -> bool:
        """Compare what clients get, on the public port. Raises OperationError."""
        for path, body in self._files(membership).items():
            url = _url(backend.ip, backend.port, path)
            try:
                async with self._session.get(url, allow_redirects=False) as response:
                    served = await _read(response, len(body) + 1)
            except (aiohttp.ClientError, OSError, ValueError) as problem:
                raise OperationError(_words(problem, self._timeout_s)) from None
            if response.status != 200 or served != body:
                return False
        return True

    async def close(self) -> None:
        """Give back the sockets."""
        await self._session.close()

    def _files(self, membership: Membership) -> dict[str, bytes]:
        # One list goes to hundreds of backends: render it once.
        if self._rendered is None or self._rendered[0] is not membership:
            files = {"/ips.json": render_json(membership), "/ips.txt": render_text(membership)}
            self._rendered = (membership, files)
        return self._rendered[1]


def _session(
    timeout_s: float, connector: aiohttp.TCPConnector, *, user_agent: str
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
        auto_decompress=False,  # a small answer must not become a big one
        trust_env=False,
    )


def _url(ip: str, port: int, path: str) -> URL:
    return URL(f"http://{ip}:{port}{path}", encoded=True)


async def _read(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The body up to the limit. If there is more, the connection is not used again."""
    body = bytearray()
    while chunk := await response.content.read(min(_CHUNK_BYTES, limit_bytes - len(body))):
        body += chunk
        if len(body) >= limit_bytes:
            response.close()
            break
    return bytes(body)


def _words(error: Exception, timeout_s: float) -> str:
    """What went wrong, as a person would say it."""
    if isinstance(error, TimeoutError):
        return f"timed out after {timeout_s:g} s"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed the connection without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "broke off its answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "answered something that is not HTTP"
    number = error.errno if isinstance(error, OSError) else None
    if number in _WORDS:
        return _WORDS[number]
    return printable(str(error) or type(error).__name__)
