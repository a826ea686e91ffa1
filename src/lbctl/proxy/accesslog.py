"""The access log: one JSON object a request, written in batches off the hot path."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from time import perf_counter, time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbctl.core.http1 import Request
    from lbctl.core.origin import Origin
    from lbctl.model import Backend

_BATCH = 64
"""Small enough that formatting it delays no request by more than some 100 microseconds."""
_TARGET_LIMIT = 2048
_METHOD_LIMIT = 256
"""Characters of a target and a method that are logged: a line has to fit into a pipe whole."""
_QUOTED_LIMIT = 2900  # the same, after it was quoted
_MOST_OF_ONE = 6  # characters that one becomes by that
_ALWAYS_LOGGED = 500
_AS_IT_IS = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*+").fullmatch
_NOTHING_READ = '"method": null, "target": null'

Entry = tuple[
    float, float, "Origin", "Request | None", int, int, int, float, float, "Backend | None", int
]
"""ended and started (perf_counter; 0: never), origin, request, its number, status, bytes of the
body, seconds to connect and to the first byte of the answer (0: with the whole of it), backend
(None: the lb answered itself), second tries."""


class AccessLog:
    """Gathers entries; `flush` formats them and hands one text to `write`.

    Everything a client chose is quoted by the JSON encoder, so no input forges a line.
    `sample` is the share of the requests that is logged, evenly spread; 5xx always are. Without
    `query` a target ends with its question mark.
    """

    def __init__(
        self, write: Callable[[str], object], sample: float = 1.0, *, query: bool = True
    ) -> None:
        self._write = write
        self._entries: list[Entry] = []
        self._sample = sample
        self._due = 0.0
        self._query = query
        self._names: dict[str, str] = {}

    def add(self, entry: Entry) -> None:
        if self._sample < 1.0 and entry[5] < _ALWAYS_LOGGED:
            self._due += self._sample
            if self._due < 1.0:
                return
            self._due -= 1.0
        self._entries.append(entry)
        if len(self._entries) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        if not self._entries:
            return
        entries, self._entries = self._entries, []
        self._write("".join(self._lines(entries, time() - perf_counter())))

    def _lines(self, entries: list[Entry], epoch_s: float) -> Iterator[str]:
        second, second_text = 0, ""
        for (
            ended, started, origin, request, number, status,
            body_bytes, connect_s, first_byte_s, backend, retries,
        ) in entries:  # fmt: skip
            now, ms = divmod(int((epoch_s + ended) * 1000), 1000)
            if now != second:
                second = now
                second_text = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            total = f"{(ended - started) * 1000:.3f}" if started else "0.000"
            if backend is None:
                name = connect = first_byte = "null"
            else:
                name = self._names.get(backend.name) or self._name(backend.name)
                connect = f"{connect_s * 1000:.3f}" if connect_s else "0.000"
                first_byte = f"{first_byte_s * 1000:.3f}" if first_byte_s else total
            if origin.trusted:
                client, request_id = origin.client(request), origin.request_id(request, number)
                request_id = json.dumps(request_id)[1:-1]
            else:
                client, request_id = origin.ip, f"{origin.id_prefix}{number:x}"
            asked = _NOTHING_READ if request is None else request.logged or self._asked(request)
            yield (
                f'{{"time": "{second_text}.{ms:03d}Z", "log": "access", '
                f'"request_id": "{request_id}", "client": "{client}", {asked}, '
                f'"status": {status}, "bytes": {body_bytes}, "duration_ms": {total}, '
                f'"connect_ms": {connect}, "first_byte_ms": {first_byte}, "backend": {name}, '
                f'"retries": {retries}, "tls": {origin.tls}}}\n'
            )

    def _name(self, name: str) -> str:
        if len(self._names) > 1024:
            self._names.clear()
        text = self._names[name] = json.dumps(name)
        return text

    def _asked(self, request: Request) -> str:
        target = request.target
        if not self._query:
            path, mark, _ = target.partition(b"?")
            target = path + mark
        request.logged = (
            f'"method": "{_quoted(request.method, _METHOD_LIMIT)}", '
            f'"target": "{_quoted(target, _TARGET_LIMIT)}"'
        )
        return request.logged


def _quoted(data: bytes, limit: int) -> str:
    text = data[:limit].decode("latin-1")
    # Nearly all are as they stand in JSON, and looking costs a tenth of quoting.
    if _AS_IT_IS(text):
        return text
    quoted = json.dumps(text)[1:-1]
    if len(quoted) > _QUOTED_LIMIT:
        quoted = json.dumps(text[: _QUOTED_LIMIT // _MOST_OF_ONE])[1:-1]
    return quoted
