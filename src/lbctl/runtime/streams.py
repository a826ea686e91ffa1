"""What an engine sends, cut into pieces: lines, JSON documents, the two streams of a container,
the file in an archive. It is read with a limit and without trust.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from lbctl.core.text import printable
from lbctl.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import StreamReader

_LINE_LIMIT_BYTES: Final = 4 << 20  # labels and build output are in it; a frame is far smaller


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut a byte stream into lines. Raises EngineError at a line of more than 4 MiB."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > _LINE_LIMIT_BYTES:
            raise EngineError("the Docker engine sent a line without end")
    if rest:
        yield rest


async def documents(chunks: AsyncIterator[bytes], what: str) -> AsyncIterator[dict[str, Any]]:
    """A stream of JSON objects, one a line. Raises EngineError at anything else."""
    async for line in lines(chunks):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise EngineError(f"{what} is garbage: {printable(line.decode(errors='replace'), 80)}")
        yield document


async def multiplexed_lines(content: StreamReader) -> AsyncIterator[bytes]:
    """Lines of a container without a terminal: frames of [stream, 0, 0, 0, size as 4 bytes]
    and so many bytes, standard output and standard error each cut into lines of its own. Of a
    container's line, 4 MiB are kept. Raises EngineError at a frame of more than that.
    """
    rests = {1: b"", 2: b""}
    while True:
        try:
            header = await content.readexactly(8)
            size = int.from_bytes(header[4:], "big")
            if size > _LINE_LIMIT_BYTES:
                raise EngineError("the Docker engine sent a frame of more than 4 MiB")
            payload = await content.readexactly(size)
        except asyncio.IncompleteReadError:
            break
        *whole, rest = (rests.get(header[0], b"") + payload).split(b"\n")
        rests[header[0]] = rest[:_LINE_LIMIT_BYTES]
        for line in whole:
            yield line
    for rest in filter(None, rests.values()):
        yield rest


def only_file(archive: bytes, doing: str) -> bytes:
    """The one regular file of a tar archive."""
    try:
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    return file.read()
    except tarfile.TarError as error:
        raise EngineError(f"{doing}: {error}") from None
    raise EngineError(f"{doing}: it is not a regular file")
