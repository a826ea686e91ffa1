"""Getting the images: used where they are there, built where they are lbctl's own, pulled
where somebody named another.
"""

from __future__ import annotations

import asyncio
import collections
import re
from typing import TYPE_CHECKING, Final

from lbctl import assets
from lbctl.core.text import printable
from lbctl.errors import ImageError
from lbctl.runtime.containers import BACKEND_IMAGE, LB_IMAGE
from lbctl.runtime.transport import EngineRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lbctl.deploy import Progress
    from lbctl.runtime.containers import Json
    from lbctl.runtime.engine import Engine

BASE_IMAGE: Final = "alpine:3.10"
_OWN: Final = {BACKEND_IMAGE: "nginx", LB_IMAGE: "lb"}  # reference: name of its build context
_SILENCE_S: Final = 10.0  # of a registry that is pulled from; beyond it nobody is there
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")  # the engine's builder has errors in red
_STEP: Final = re.compile(r"Step (\d{1,4})/(\d{1,4}) : ")  # as the engine's builder announces each
_REACHED: Final = {  # what the engine says of a layer: from where to where on its way that is
    "Pulling fs layer": (0.0, 0.0),
    "Downloading": (0.0, 0.5),
    "Download complete": (0.5, 0.5),
    "Extracting": (0.5, 1.0),
    "Pull complete": (1.0, 1.0),
    "Already exists": (1.0, 1.0),
}
_TAIL_LINES: Final = 30  # of a failed build's log in its error: make ends long after the cause


async def ensure_images(
    engine: Engine, lb_ref: str, backend_ref: str, build: bool, progress: Progress
) -> str:
    """See to it that both images are on the engine; returns the lb's id.

    With `build`, lbctl's own are built also where they are there. Raises ImageError with the
    image's name and the first cause, EngineError.
    """
    for ref in (backend_ref, lb_ref):
        await ensure_image(engine, ref, progress, build=build)
    image = await engine.image(lb_ref)
    if image is None:
        raise ImageError(f"image {lb_ref} went away while it was needed")
    return str(image["Id"])


async def ensure_image(engine: Engine, ref: str, progress: Progress, *, build: bool) -> None:
    """The same for one image."""
    present = await engine.image(ref) is not None
    if ref in _OWN and (build or not present):
        await _build(engine, ref, progress)
    elif not present:
        await _pull(engine, ref, progress)


async def _build(engine: Engine, ref: str, progress: Progress) -> None:
    if await engine.image(BASE_IMAGE) is None:
        try:
            await _pull(engine, BASE_IMAGE, progress)
        except ImageError as error:
            raise ImageError(
                f"cannot build {ref}: its base {BASE_IMAGE} is not here, and {error}"
            ) from error
    name = _OWN[ref]
    progress.note(f"building {ref}")
    latest = f"{ref.partition(':')[0]}:latest"
    messages = engine.build(
        assets.build_context(name), f"images/{name}/Dockerfile", tags=(ref, latest)
    )
    tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
    cause = ""
    async for message in messages:
        cause = str(message.get("error", "")).strip() or cause
        # What apk, make or pip print within a step ends where they like, mostly at a newline.
        for line in _COLOUR.sub("", str(message.get("stream", ""))).splitlines():
            if line.strip():
                plain = printable(line.rstrip(), 400)
                if step := _STEP.match(plain):
                    tail.clear()
                    at, total = int(step[1]), int(step[2])
                    progress.part(at - 1, total, f"step {at} of {total}")
                tail.append(plain)
                progress.log(plain)
    if cause:
        lines = "\n".join(f"    {line}" for line in tail)
        raise ImageError(f"building {ref} failed: {printable(cause, 400)}\n{lines}")


async def _pull(engine: Engine, ref: str, progress: Progress) -> None:
    progress.note(f"pulling {ref}")
    messages = engine.pull(ref)
    layers = _Layers()
    cause = ""
    try:
        async for message in _unless_silent(messages):
            cause = str(message.get("error", "")).strip() or cause
            if layers.hear(message):
                progress.part(layers.done, layers.total, layers.text)
            # What moves several times a second is in the bar alone.
            if message.get("status") and not message.get("progressDetail"):
                layer = f"{message['id']}: " if message.get("id") else ""
                progress.log(printable(f"{layer}{message['status']}", 400))
    except TimeoutError:
        cause = f"the registry kept silent for {_SILENCE_S:g} s"
    except EngineRefusedError as error:
        cause = error.message
    if cause:
        raise ImageError(f"image {ref} cannot be pulled: {printable(cause, 400)}")


class _Layers:
    """How far a pull is: half of a layer's way is that it is here, the rest that it is unpacked.
    How large it is, the engine tells only when its turn has come.
    """

    def __init__(self) -> None:
        self._ways: dict[str, float] = {}  # by layer: from 0 to 1

    def hear(self, message: Json) -> bool:
        """Whether this is of a layer."""
        reached = _REACHED.get(str(message.get("status")))
        layer = message.get("id")
        if reached is None or not layer:
            return False
        begin, end = reached
        detail = message.get("progressDetail") or {}
        current, total = detail.get("current") or 0, detail.get("total") or 0
        way = begin + (end - begin) * min(1.0, current / total) if total else begin
        self._ways[layer] = max(way, self._ways.get(layer, 0.0))
        return True

    @property
    def done(self) -> float:
        return sum(self._ways.values())

    @property
    def total(self) -> int:
        return len(self._ways)

    @property
    def text(self) -> str:
        whole = sum(way >= 1 for way in self._ways.values())
        return f"layers: {whole} of {self.total}"


async def _unless_silent(messages: AsyncIterator[Json]) -> AsyncIterator[Json]:
    """The messages; TimeoutError where the next one takes too long."""
    while True:
        async with asyncio.timeout(_SILENCE_S):
            try:
                message = await anext(messages)
            except StopAsyncIteration:
                return
        yield message
