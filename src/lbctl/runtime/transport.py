"""How a Docker engine is reached and asked, and its errors in lbctl's words.

aiodocker finds the engine (DOCKER_HOST, contexts, the usual sockets; unix, tcp with TLS, ssh)
and owns the HTTP session; nothing else in lbctl imports it. Requests are put here rather than
through its collections, whose streams end silently when a connection breaks and whose lists
hide the engine's answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from typing import TYPE_CHECKING, Any, Final, Self

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError
from yarl import URL

from lbctl.core.text import printable
from lbctl.errors import EngineError, EngineUnavailableError, LbctlError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

Json = dict[str, Any]

_OLDEST_API: Final = (1, 40)  # Engine 19.03, July 2019
VERSION_PATH: Final = "/version"
_DEFAULT_SOCKET = "/var/run/docker.sock"
_CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0


class EngineRefusedError(EngineError):
    """The engine answered with an error; `status` is HTTP's, `message` the engine's own."""

    def __init__(self, doing: str, status: int, message: str) -> None:
        super().__init__(f"{doing}: {message}")
        self.status = status
        self.message = message


class Transport:
    """The way to one Docker engine, which `close` gives back.

    Every method raises EngineRefusedError where the engine says no, EngineError where it broke
    off or kept silent, and EngineUnavailableError where it is not there any more.
    """

    def __init__(self, docker: aiodocker.Docker, address: str, version: str) -> None:
        self._docker = docker
        self.address = address
        self.version = version

    @classmethod
    async def connect(cls, url: str | None = None) -> Self:
        """The engine at `url`, or that DOCKER_HOST, the chosen context or the usual sockets name.

        Raises EngineUnavailableError, which says what to start, install or change.
        """
        engine = cls.at(url)
        try:
            await engine.greet()
        except BaseException:
            await engine.close()
            raise
        return engine

    @classmethod
    def at(cls, url: str | None = None) -> Self:
        """The one there, whether it answers or not; to be greeted before it is asked for anything.

        Raises EngineUnavailableError where nothing says where it is.
        """
        try:
            docker = aiodocker.Docker(url)
        except (AssertionError, TypeError):
            # aiodocker asserts that it found a socket.
            raise _absent(_DEFAULT_SOCKET) from None
        except (ValueError, OSError, DockerError, ImportError) as error:
            raise EngineUnavailableError(
                f"DOCKER_HOST or the Docker context is wrong: {printable(str(error))}"
            ) from None
        return cls(docker, _address(docker), "")

    async def greet(self) -> None:
        """Learn its version, and speak its API from now on. Raises EngineUnavailableError."""
        facts = await self.about()
        api = str(facts.get("ApiVersion", "0.0"))
        if _numbers(api) < _OLDEST_API:
            oldest = ".".join(map(str, _OLDEST_API))
            raise EngineUnavailableError(
                f"the Docker engine at {self.address} is too old: it speaks API "
                f"{printable(api, 20)}, lbctl needs {oldest} (Engine 19.03) or newer"
            )
        self.version = str(facts.get("Version", "?"))
        self._docker.api_version = f"v{api}"

    @property
    def socket(self) -> str | None:
        """Path of the engine's unix socket; None where it is reached in another way, and may
        be another machine.
        """
        scheme, _, path = self.address.partition("://")
        return path if scheme == "unix" else None

    async def close(self) -> None:
        """Close the connections, streams included."""
        await self._docker.close()

    async def about(self) -> Json:
        """What the engine says of itself."""
        answer: Json = await self._json("ask for the engine's version", "GET", VERSION_PATH)
        return answer

    @contextlib.asynccontextmanager
    async def _answer(
        self,
        doing: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        data: bytes | None = None,
        content_type: str = "application/x-tar",
        token: str = "",
        timeout_s: float | None = ANSWER_TIMEOUT_S,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        prefix = "" if self._docker.api_version == "auto" else f"/{self._docker.api_version}"
        url = URL(f"{self._docker.docker_host}{prefix}{path}", encoded=True)
        headers = {} if data is None else {"Content-Type": content_type}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_TIMEOUT_S)
        with _in_words(doing, self.address):
            async with self._docker.session.request(
                method, url, params=params, data=data, headers=headers, timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise EngineRefusedError(doing, response.status, await _message(response))
                yield response

    async def _json(
        self,
        doing: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: Json | None = None,
        token: str = "",
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        async with self._answer(
            doing,
            method,
            path,
            params=params,
            data=data,
            content_type="application/json",
            token=token,
            timeout_s=timeout_s,
        ) as response:
            raw = await response.read()
        try:
            return json.loads(raw) if raw.strip() else {}
        except ValueError:
            raise EngineError(f"{doing}: the engine's answer is not JSON") from None

    async def _create(
        self,
        doing: str,
        path: str,
        body: Json,
        undo: Callable[[Json], Awaitable[None]],
        *,
        params: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    ) -> Json:
        """Ask for something new. Cancelled half-way, it waits for the engine's answer and has
        what was made undone: otherwise nobody could know whether there is something.
        """
        request = asyncio.create_task(self._json(doing, "POST", path, params=params, body=body))
        try:
            made: Json = await asyncio.shield(request)
        except asyncio.CancelledError:
            with contextlib.suppress(EngineError, EngineUnavailableError):
                await undo(await request)
            raise
        return made

    async def _json_or_none(self, doing: str, path: str) -> Any:
        try:
            return await self._json(doing, "GET", path)
        except EngineRefusedError as error:
            if error.status == 404:
                return None
            raise

    async def _delete(self, doing: str, path: str) -> None:
        try:
            await self._json(doing, "DELETE", path)
        except EngineRefusedError as error:
            if error.status != 404:
                raise


def _address(docker: aiodocker.Docker) -> str:
    """Where the engine is, as a person would write it."""
    # An ssh connector is a unix one too, whose path is its own end of the tunnel.
    if type(docker.connector) is aiohttp.UnixConnector:
        return f"unix://{docker.connector.path}"
    return docker.docker_host


@contextlib.contextmanager
def _in_words(doing: str, address: str) -> Iterator[None]:
    """Map what aiohttp and the kernel raise into lbctl's errors."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise _unreachable(error.os_error, address) from error
    except TimeoutError as error:
        raise EngineError(f"{doing}: the Docker engine did not answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        why = printable(str(error)) or type(error).__name__
        raise EngineError(f"{doing}: the Docker engine broke off ({why})") from error


def _unreachable(error: OSError, address: str) -> LbctlError:
    where = address.removeprefix("unix://")
    if error.errno == errno.ENOENT:
        return _absent(where)
    if error.errno in (errno.EACCES, errno.EPERM):
        return EngineUnavailableError(
            f"no permission to use the Docker engine at {where}\n"
            "add yourself to the group docker (sudo usermod -aG docker $USER), then log in again"
        )
    if error.errno == errno.ECONNREFUSED:
        return EngineUnavailableError(
            f"no Docker engine answers at {where}: connection refused\n"
            "start it (sudo systemctl start docker)"
        )
    why = printable(error.strerror or str(error))
    return EngineUnavailableError(f"no Docker engine answers at {where}: {why}")


def _absent(where: str) -> EngineUnavailableError:
    return EngineUnavailableError(
        f"no Docker engine: there is no {where}\n"
        "install one (Debian: sudo apt-get install docker.io) or start it "
        "(sudo systemctl start docker)"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


async def _message(response: aiohttp.ClientResponse) -> str:
    """The engine's own words for a refusal."""
    raw = (await response.content.read(65_536)).decode(errors="replace")
    try:
        message = str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        message = raw
    return printable(message.strip(), 400) or f"status {response.status}"
