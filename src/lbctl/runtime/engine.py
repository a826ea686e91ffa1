"""A Docker engine's HTTP API: the calls lbctl makes (https://docs.docker.com/engine/api/)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from lbctl.errors import EngineError
from lbctl.runtime.streams import documents, lines, multiplexed_lines, only_file
from lbctl.runtime.transport import ANSWER_TIMEOUT_S, EngineRefusedError, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from lbctl.runtime.transport import Json

_EXEC_POLL_S: Final = 0.02
_ARCHIVE_LIMIT_BYTES: Final = 1 << 20  # of what a file is read out of a container in


class Engine(Transport):
    """One Docker engine. Made by `Engine.connect`, given back by `close`. Every method raises as
    Transport says.
    """

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
            timeout_s=grace_s + ANSWER_TIMEOUT_S,
        )

    async def restart(self, container: str) -> None:
        """Kill and start a container; one in another's network joins that anew."""
        await self._json(
            f"restart {container}",
            "POST",
            f"/containers/{quote(container)}/restart",
            params={"t": "0"},
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
        """A regular file of a container, running or not, whose tar archive has at most 1 MiB.

        Raises EngineRefusedError with status 404 where there is no such file.
        """
        doing = f"read {path} of {container}"
        async with self._answer(
            doing, "GET", f"/containers/{quote(container)}/archive", params={"path": path}
        ) as response:
            archive = b""
            async for chunk in response.content.iter_any():
                archive += chunk
                if len(archive) > _ARCHIVE_LIMIT_BYTES:
                    raise EngineError(f"{doing}: its archive is larger than 1 MiB")
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


def _split_ref(ref: str) -> tuple[str, str]:
    """An image reference as the engine's pull wants it: a name, and a tag or a digest."""
    name, at, digest = ref.partition("@")
    if at:
        return name, digest
    head, colon, tag = ref.rpartition(":")
    # The colon of a registry's port is not a tag's.
    return (head, tag) if colon and "/" not in tag else (ref, "latest")
