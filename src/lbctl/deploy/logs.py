"""The logs of many containers as one stream of lines, each with its container's name."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from lbctl.core.text import printable
from lbctl.deploy import LogLine
from lbctl.model import LABEL_ROLE
from lbctl.runtime.containers import listed_name
from lbctl.runtime.transport import EngineRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from lbctl.runtime.containers import Json
    from lbctl.runtime.engine import Engine

_FOLLOWED: Final = 90  # at a time: each takes one of the session's 100 connections
_LINE_LIMIT: Final = 16_384


async def log_lines(
    engine: Engine, containers: Sequence[Json], *, follow: bool, tail: int
) -> AsyncIterator[LogLine]:
    """The last `tail` lines of each container, the lb's first and the backends' by number;
    with `follow` then all new lines as they come, until every container has ended.
    """
    ordered = sorted(containers, key=_order)
    width = max((len(listed_name(container)) for container in ordered), default=0)
    if follow:
        if len(ordered) > _FOLLOWED:
            yield LogLine("lbctl", f"following the first {_FOLLOWED} of {len(ordered)} logs", width)
        streams = [
            _lines(engine, container, width, follow=True, tail=tail)
            for container in ordered[:_FOLLOWED]
        ]
        async for line in _as_they_come(streams):
            yield line
    else:
        for container in ordered:
            async for line in _lines(engine, container, width, follow=False, tail=tail):
                yield line


async def _lines(
    engine: Engine, container: Json, width: int, *, follow: bool, tail: int
) -> AsyncIterator[LogLine]:
    name = listed_name(container)
    try:
        async for line in engine.logs(container["Id"], follow=follow, tail=tail):
            text = line.decode(errors="replace").rstrip("\r").replace("\t", "    ")
            yield LogLine(name, printable(text, _LINE_LIMIT), width)
    except EngineRefusedError as error:
        if error.status != 404:  # it may be gone by now
            raise


async def _as_they_come(streams: Sequence[AsyncIterator[LogLine]]) -> AsyncIterator[LogLine]:
    async def next_of(stream: AsyncIterator[LogLine]) -> LogLine | None:
        return await anext(stream, None)

    pending = {asyncio.create_task(next_of(stream)): stream for stream in streams}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = pending.pop(task)
                line = task.result()
                if line is not None:
                    pending[asyncio.create_task(next_of(stream))] = stream
                    yield line
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def _order(container: Json) -> tuple[bool, list[tuple[int, str]]]:
    """The lb first; backend-2 before backend-10."""
    parts = re.findall(r"\d+|\D+", listed_name(container))
    natural = [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
    return container["Labels"].get(LABEL_ROLE) != "lb", natural
