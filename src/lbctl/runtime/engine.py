"""A Docker engine's HTTP API: the calls lbctl makes, and its errors in lbctl's words.

aiodocker finds the engine (DOCKER_HOST, contexts, the usual sockets; unix, tcp with TLS, ssh)
and owns the HTTP session; nothing else in lbctl imports it. Requests are put here rather than
through its collections, whose streams end silently when a connection breaks and whose lists
hide the engine's answers (https://docs.docker.com/engine/api/ describes those).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import math
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError
from yarl import URL

from lbctl.core.text import printable
from lbctl.errors import EngineError, EngineUnavailableError, LbctlError
from lbctl.runtime.streams import documents, lines, multiplexed_lines, only_file

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Iterator,
        Mapping,
        Sequence,
    )

Json = dict[str, Any]

OLDEST_API: Final = (1, 40)  # Engine 19.03, July 2019
VERSION_PATH: Final = "/version"
_DEFAULT_SOCKET = "/var/run/docker.sock"
_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 60.0
_EXEC_POLL_S = 0.02
_FILE_LIMIT_BYTES = 1 << 20  # of a file read out of a container


class EngineRefusedError(EngineError):
    """The engine answered with an error; `status` is HTTP's, `message` the engine's own."""

    def __init__(self, doing: str, status: int, message: str) -> None:
        super().__init__(f"{doing}: {message}")
        self.status = status
        self.message = message


class Engine:
    """One Docker engine. Made by `Engine.connect`, given back by `close`.

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
        if _numbers(api) < OLDEST_API:
            oldest = ".".join(map(str, OLDEST_API))
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

    async def info(self) -> Json:
        """How it is set up, and the machine it runs on."""
        answer: Json = await self._json("ask for the engine's settings", "GET", "/info")
        return answer

    # Containers

    async def containers(self, filters: Mapping[str, Sequence[str]]) -> list[Json]:
        """All containers that pass the filters, exited ones included, as the list shows them."""
        params = {"all": "1", "filters": json.dumps(filters)}
        answer: list[Json] = await self._json(
            "list containers", "GET", "/containers/json", params=params
        )
        return answer

    async def inspect(self, container: str) -> Json:
        """Everything about one container."""
        answer: Json = await self._json(
            f"inspect {container}", "GET", f"/containers/{quote(container)}/json"
        )
        return answer

    async def stats(self, container: str) -> Json:
        """What a container uses, at this moment."""
        answer: Json = await self._json(
            f"ask what {container} uses",
            "GET",
            f"/containers/{quote(container)}/stats",
            # Without `one-shot` (API 1.41) the engine waits for a second look of its own.
            params={"stream": "false", "one-shot": "true"},
        )
        return answer

    async def create(self, name: str, body: Json) -> str:
        """Create a container; returns its id. It does not run yet."""
        made = await self._create(
            f"create {name}",
            "/containers/create",
            body,
            lambda made: self.remove(made["Id"]),
            params={"name": name},
        )
        return str(made["Id"])

    async def start(self, container: str) -> None:
        """Start a container; one that runs is fine."""
        await self._json(f"start {container}", "POST", f"/containers/{quote(container)}/start")

    async def stop(self, container: str, grace_s: float) -> None:
        """Send a container its stop signal, and SIGKILL after `grace_s`; returns when it has
        exited. One that is not running is fine.
        """
        await self._json(
            f"stop {container}",
            "POST",
            f"/containers/{quote(container)}/stop",
            params={"t": str(math.ceil(grace_s))},
            timeout_s=grace_s + _ANSWER_TIMEOUT_S,
        )

    async def restart(self, container: str, grace_s: float) -> None:
        """Stop and start a container; one in another's network joins that anew."""
        await self._json(
            f"restart {container}",
            "POST",
            f"/containers/{quote(container)}/restart",
            params={"t": str(math.ceil(grace_s))},
            timeout_s=grace_s + _ANSWER_TIMEOUT_S,
        )

    async def execute(self, container: str, command: Sequence[str]) -> int:
        """Run a command in a container, without input or output; returns its exit status."""
        doing = f"run {command[0]} in {container}"
        body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True}
        made = await self._json(doing, "POST", f"/containers/{quote(container)}/exec", body=body)
        run = f"/exec/{quote(made['Id'])}"
        async with self._answer(
            doing, "POST", f"{run}/start", data=b"{}", content_type="application/json"
        ) as response:
            await response.read()
        while True:
            status = (await self._json(doing, "GET", f"{run}/json"))["ExitCode"]
            if status is not None:
                return int(status)
            await asyncio.sleep(_EXEC_POLL_S)  # it has ended, and the engine is about to know

    async def kill(self, container: str) -> None:
        """Send a container SIGKILL, as `docker kill`: the engine does not start it again."""
        await self._json(f"kill {container}", "POST", f"/containers/{quote(container)}/kill")

    async def pause(self, container: str) -> None:
        """Freeze all processes of a container."""
        await self._json(f"pause {container}", "POST", f"/containers/{quote(container)}/pause")

    async def unpause(self, container: str) -> None:
        """Let them go on."""
        await self._json(f"unpause {container}", "POST", f"/containers/{quote(container)}/unpause")

    async def rename(self, container: str, name: str) -> None:
        """Give a container another name."""
        await self._json(
            f"rename {container} to {name}",
            "POST",
            f"/containers/{quote(container)}/rename",
            params={"name": name},
        )

    async def remove(self, container: str) -> None:
        """Kill a container if it runs, and remove it with its anonymous volumes.

        One that is gone, or is being removed by somebody else, is fine.
        """
        params = {"force": "1", "v": "1"}
        try:
            await self._json(
                f"remove {container}", "DELETE", f"/containers/{quote(container)}", params=params
            )
        except EngineRefusedError as error:
            in_progress = error.status == 409 and "already in progress" in error.message
            if error.status != 404 and not in_progress:
                raise

    async def read_file(self, container: str, path: str) -> bytes:
        """A regular file of a container, running or not, of at most 1 MiB.

        Raises EngineRefusedError with status 404 where there is no such file.
        """
        doing = f"read {path} of {container}"
        async with self._answer(
            doing, "GET", f"/containers/{quote(container)}/archive", params={"path": path}
        ) as response:
            archive = b""
            async for chunk in response.content.iter_any():
                archive += chunk
                if len(archive) > _FILE_LIMIT_BYTES:
                    raise EngineError(f"{doing}: it is larger than 1 MiB")
        return only_file(archive, doing)

    async def logs(self, container: str, *, follow: bool, tail: int) -> AsyncIterator[bytes]:
        """Lines of a container's output and errors, without the newline, oldest first."""
        facts = await self.inspect(container)
        params = {"stdout": "1", "stderr": "1", "tail": str(tail), "follow": str(int(follow))}
        async with self._answer(
            f"read the log of {container}",
            "GET",
            f"/containers/{quote(container)}/logs",
            params=params,
            timeout_s=None,
        ) as response:
            if facts["Config"]["Tty"]:
                async for line in lines(response.content.iter_any()):
                    yield line
            else:
                async for line in multiplexed_lines(response.content):
                    yield line

    @contextlib.asynccontextmanager
    async def events(
        self, filters: Mapping[str, Sequence[str]], since: str
    ) -> AsyncIterator[AsyncIterator[Json]]:
        """The engine's events from `since` (seconds since the epoch, with a fraction) on.

        Entered when the engine has begun to answer. The stream ends where the engine ends it.
        """
        async with self._answer(
            "read events",
            "GET",
            "/events",
            params={"since": since, "filters": json.dumps(filters)},
            timeout_s=None,
        ) as response:
            yield documents(response.content.iter_any(), "the engine's event stream")

    # Networks and volumes

    async def network(self, name: str) -> Json | None:
        """A network by its exact name, with the containers on it; None where there is none."""
        answer: Json | None = await self._json_or_none(
            f"inspect network {name}", f"/networks/{quote(name)}"
        )
        # The engine takes an id's prefix here too.
        return answer if answer is not None and answer["Name"] == name else None

    async def create_network(self, name: str, labels: Mapping[str, str]) -> str:
        """Create a bridge network; returns its id."""
        body = {"Name": name, "Driver": "bridge", "CheckDuplicate": True, "Labels": labels}
        made = await self._create(
            f"create network {name}",
            "/networks/create",
            body,
            lambda made: self.remove_network(made["Id"]),
        )
        return str(made["Id"])

    async def remove_network(self, network: str) -> None:
        """Remove a network by id or name; one that is gone is fine."""
        await self._delete(f"remove network {network}", f"/networks/{quote(network)}")

    async def volume(self, name: str) -> Json | None:
        """A volume by name; None where there is none."""
        answer: Json | None = await self._json_or_none(
            f"inspect volume {name}", f"/volumes/{quote(name)}"
        )
        return answer

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Create a local volume. The engine takes one that is there for a new one."""
        body = {"Name": name, "Labels": labels}
        await self._create(
            f"create volume {name}",
            "/volumes/create",
            body,
            lambda made: self.remove_volume(made["Name"]),
        )

    async def remove_volume(self, name: str) -> None:
        """Remove a volume; one that is gone is fine."""
        await self._delete(f"remove volume {name}", f"/volumes/{quote(name)}")

    # Images

    async def image(self, ref: str) -> Json | None:
        """What the engine knows of an image; None where it has none of that name."""
        answer: Json | None = await self._json_or_none(
            f"inspect image {ref}", f"/images/{quote(ref, safe='/:@')}/json"
        )
        return answer

    async def build(
        self, context: bytes, dockerfile: str, tags: Sequence[str]
    ) -> AsyncIterator[Json]:
        """Build an image from a tar archive, with the builder every engine has.

        Yields the builder's messages ({"stream": ...}, {"aux": ...}, {"error": ...}); a
        failed step is such a message, not an exception.
        """
        params = [("t", tag) for tag in tags]
        params += [("dockerfile", dockerfile), ("rm", "1"), ("forcerm", "1")]
        async with self._answer(
            f"build {tags[0]}", "POST", "/build", params=params, data=context, timeout_s=None
        ) as response:
            async for message in documents(response.content.iter_any(), "the engine's build log"):
                yield message

    async def pull(self, ref: str) -> AsyncIterator[Json]:
        """Pull an image; yields messages as `build` does."""
        name, tag = _split_ref(ref)
        params = {"fromImage": name, "tag": tag}
        async with self._answer(
            f"pull {ref}", "POST", "/images/create", params=params, timeout_s=None
        ) as response:
            async for message in documents(response.content.iter_any(), "the engine's pull log"):
                yield message

    # How all of them go about it

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
        timeout_s: float | None = _ANSWER_TIMEOUT_S,
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
        timeout_s: float = _ANSWER_TIMEOUT_S,
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


def _split_ref(ref: str) -> tuple[str, str]:
    """An image reference as the engine's pull wants it: a name, and a tag or a digest."""
    name, at, digest = ref.partition("@")
    if at:
        return name, digest
    head, colon, tag = ref.rpartition(":")
    # The colon of a registry's port is not a tag's.
    return (head, tag) if colon and "/" not in tag else (ref, "latest")


async def _message(response: aiohttp.ClientResponse) -> str:
    """The engine's own words for a refusal."""
    raw = (await response.content.read(65_536)).decode(errors="replace")
    try:
        message = str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        message = raw
    return printable(message.strip(), 400) or f"status {response.status}"
