"""The docker runtime behind the guard: an engine of which only that may be asked which
core/allowlist.py lists. It looks like the engine itself, but for what creates a backend: the guard
is told image and revision, and makes the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from lbctl.errors import EngineError, EngineUnavailableError, LbctlError
from lbctl.model import LABEL_REVISION, GuardCounts
from lbctl.paths import GUARD_SOCKET
from lbctl.runtime.docker import DockerRuntime
from lbctl.runtime.engine import Engine
from lbctl.runtime.transport import VERSION_PATH, EngineRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import aiohttp

    from lbctl.model import Instance, Release
    from lbctl.runtime.containers import Json

log = logging.getLogger(__name__)

_PATIENCE_S: Final = 2.0  # as long as the engine takes to start a guard again
_RETRY_S: Final = 0.1

NO_ENGINE_STATUS = 502
"""What the guard answers where no engine stands behind it."""
UNNAMED: Final = "nobody has named the image"
"""How a guard says that backends may not be made from one."""


class GuardedEngine(Engine):
    """An engine behind its guard. A guard that is away is EngineUnavailableError too; one that was
    away when this was made is greeted before the first question.
    """

    async def name_image(self, image: str, token: str) -> None:
        """Tell the guard an image that backends may be made from; `token` is the admin token.

        Raises EngineRefusedError if it is not.
        """
        await self._json(
            f"name the image {image}", "PUT", "/lbctl/image", body={"image": image}, token=token
        )

    async def counters(self) -> tuple[str, GuardCounts]:
        """What the guard has counted in its present life, and which life that is."""
        told = await self._json("ask for the guard's counters", "GET", "/lbctl/counters")
        try:
            refused = {str(reason): int(count) for reason, count in told["refused"].items()}
            return str(told["life"]), GuardCounts(int(told["requests"]), refused)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise EngineError("the guard's counters are of another version") from None

    @contextlib.asynccontextmanager
    async def _answer(
        self, doing: str, method: str, path: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if not self.version and path != VERSION_PATH:
            await self.greet()
        clock = asyncio.get_running_loop().time
        end_s, answered = clock() + _PATIENCE_S, False
        while not answered:
            try:
                async with super()._answer(doing, method, path, **options) as response:
                    answered = True
                    yield response
            except EngineRefusedError as error:
                if error.status != NO_ENGINE_STATUS:
                    raise
                raise EngineUnavailableError(error.message) from None
            except EngineUnavailableError:
                if answered or clock() >= end_s:
                    raise self._missed() from None
                await asyncio.sleep(_RETRY_S)  # nothing was sent

    def _missed(self) -> EngineUnavailableError:
        return EngineUnavailableError(
            f"no guard answers at {self.address.removeprefix('unix://')}\n"
            "it starts by itself, but not after docker stop or docker kill: lbctl up starts it then"
        )


class GuardedRuntime(DockerRuntime):
    """DockerRuntime for an lb. `token` reads the admin token."""

    def __init__(self, engine: GuardedEngine, project: str, token: Callable[[], str]) -> None:
        super().__init__(engine, project)
        self._guard = engine
        self._token = token
        self._recovering = asyncio.Lock()
        self._recovered = False

    @classmethod
    def behind_guard(cls, project: str, token: Callable[[], str]) -> GuardedRuntime:
        """Whether there is a guard already, or an engine behind it, or not."""
        return cls(GuardedEngine.at(f"unix://{GUARD_SOCKET}"), project, token)

    async def list(self) -> list[Instance]:
        # The first one comes before anything is started: nobody knows what there is until then.
        async with self._recovering:
            if not self._recovered:
                await self.recover()
                self._recovered = True
        return await super().list()

    async def counters(self) -> tuple[str, GuardCounts]:
        """As GuardedEngine has them."""
        return await self._guard.counters()

    async def _body(self, release: Release) -> Json:
        await self._name_image(release.image)
        return {"Image": release.image, "Labels": {LABEL_REVISION: str(release.revision)}}

    async def _create(self, name: str, body: Json) -> str:
        try:
            return await super()._create(name, body)
        except EngineRefusedError as error:
            if error.status != 403 or UNNAMED not in error.message:
                raise
        # A guard that was started anew since then has forgotten what it was told.
        await self._name_image(body["Image"])
        return await super()._create(name, body)

    async def _name_image(self, image: str) -> None:
        try:
            await self._guard.name_image(image, self._token())
        except LbctlError as error:
            log.warning("%s", error)  # it may be the one that the guard was started with
