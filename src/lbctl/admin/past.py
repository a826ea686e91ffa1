"""What happened, for readers of the admin port: lists of the past, events, a stream of them."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiohttp import web

from lbctl.admin.documents import listed_document
from lbctl.admin.sse import Streams, encode
from lbctl.admin.turns import Turns, while_there
from lbctl.core.history import Span, document, to_ms
from lbctl.core.when import moment, utc
from lbctl.errors import OperationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.core.history import Record
    from lbctl.ports import Journal

LIMIT = 1_000
_DEFAULT_LIMIT = 100
_PAGE = 200  # of a stream that catches up
_BLOCK_BYTES = 65_536  # of which are sent at a time, or one event that is longer
_ENCODED_BYTES = 8_388_608
_SETTLED_S = 1.0
_NUMBER = re.compile(r"[0-9]{1,15}")


class Past:
    """The routes; `close` ends the streams. `streams` is how many clients may follow at a time."""

    def __init__(self, journal: Journal, streams: int) -> None:
        self._journal = journal
        self._streams = Streams(max(1, streams))
        self._turns = Turns()
        self._encoded = Encoded()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/history", self._history),
            web.get("/api/v1/events", self._events),
        ]

    async def close(self, _app: web.Application) -> None:
        self._streams.close()

    async def _history(self, request: web.Request) -> web.Response:
        query = request.query
        span = self._span(query, lists=True)
        at = self._moment(query, "at")
        async with self._turns.turn(request, self._settled):
            if at is None:
                found = await self._journal.lists(span)
            else:
                one = await self._journal.list_at(at)
                found = [] if one is None else [one]
        return web.json_response({"generations": [listed_document(one) for one in found]})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        span = self._span(query)
        follow = _word(query, "follow", "1", ("0", "1")) == "1"
        accepted = request.headers.get("Accept", "")
        if follow and "application/json" not in accepted:
            return await self._stream(request, await self._beginning(request, span))
        async with self._turns.turn(request, self._settled):
            found = await self._journal.records(span)
        return web.json_response({"events": [document(record) for record in found]})

    async def _settled(self) -> None:
        """What happened just now is to be found."""
        await self._journal.settled(_SETTLED_S)

    async def _beginning(self, request: web.Request, span: Span) -> int:
        """The number behind which a stream begins: a client that comes back says where it was."""
        last_id = request.headers.get("Last-Event-ID", "")
        known = int(last_id) if _NUMBER.fullmatch(last_id) else span.after
        if known is None and span.since_ms is not None:
            asked = Span(1, since_ms=span.since_ms, oldest=True)
            async with self._turns.turn(request, self._settled):
                first = await self._journal.records(asked)
            return first[0].seq - 1 if first else self._journal.last
        # No question, and no turn: a browser that is refused does not come back.
        with while_there(request):
            await self._settled()
        return self._journal.last if known is None else known

    async def _stream(self, request: web.Request, seq: int) -> web.StreamResponse:
        async with self._streams.open(request) as stream:
            with self._journal.listening(stream.wake):
                while stream.alive:
                    try:
                        records = await self._journal.after(seq, _PAGE)
                    except OperationError:
                        break  # it has begun, so there is no error to answer: its client comes back
                    if not records:
                        await stream.rest()
                        continue
                    for block in self._blocks(records):
                        await stream.send(block)
                        # As long as its client takes all, nothing of this waits: and many are
                        # woken at a time.
                        await asyncio.sleep(0)
                    seq = records[-1].seq
        return stream.response

    def _blocks(self, records: Sequence[Record]) -> Iterator[bytes]:
        block = bytearray()
        for record in records:
            block += self._encoded.of(record)
            if len(block) >= _BLOCK_BYTES:
                yield bytes(block)
                block.clear()
        if block:
            yield bytes(block)

    # What a query says

    def _span(self, query: Mapping[str, str], *, lists: bool = False) -> Span:
        since, until = self._moment(query, "since"), self._moment(query, "until")
        after, before = _number(query, "after"), _number(query, "before")
        limit = _number(query, "limit")
        if limit is not None and not 1 <= limit <= LIMIT:
            raise UsageError(f"limit: {limit} is out of range (1 to {LIMIT})")
        return Span(
            limit=_DEFAULT_LIMIT if limit is None else limit,
            after=after,
            before=before,
            since_ms=None if since is None else to_ms(since),
            until_ms=None if until is None else to_ms(until),
            oldest=after is not None or (since is not None and before is None),
            lists=lists,
        )

    def _moment(self, query: Mapping[str, str], name: str) -> datetime | None:
        text = query.get(name)
        if text is None:
            return None
        try:
            return moment(text, datetime.now(UTC), utc)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None


class Encoded:
    """Events of a stream, made once for all who follow; `limit_bytes` of the last ones are kept."""

    def __init__(self, limit_bytes: int = _ENCODED_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._kept: dict[int, tuple[Record, bytes]] = {}  # by number; the first made comes first
        self._size = 0

    def of(self, record: Record) -> bytes:
        kept = self._kept.get(record.seq)
        if kept is not None and (kept[0] is record or kept[0] == record):
            return kept[1]
        self._drop(record.seq)  # of a history that was lost
        block = encode(json.dumps(document(record)), record.kind, str(record.seq))
        self._kept[record.seq] = record, block
        self._size += _size(record, block)
        while self._size > self._limit_bytes:
            self._drop(next(iter(self._kept)))
        return block

    def _drop(self, seq: int) -> None:
        kept = self._kept.pop(seq, None)
        if kept is not None:
            self._size -= _size(*kept)


def _size(record: Record, block: bytes) -> int:
    return len(record.data) + len(block)


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise UsageError(f"{name} must be a whole number")
    return int(text)


def _word(query: Mapping[str, str], name: str, default: str, known: tuple[str, ...]) -> str:
    text = query.get(name, default)
    if text not in known:
        raise UsageError(f"{name} must be {' or '.join(known)}")
    return text
