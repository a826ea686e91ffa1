"""The access log: one JSON object a request, written in batches off the hot path."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from time import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.core.http1 import Request
    from lbctl.model import Backend

_BATCH = 512
_TARGET_LIMIT = 2048
"""Characters of a target that are logged: a line has to fit into a pipe in one piece."""
_LINE = (
    '{"time": "%s", "log": "access", "client": "%s", "method": %s, "target": %s, '
    '"status": %d, "bytes": %d, "duration_ms": %.3f, "backend": %s}\n'
)

Entry = tuple[float, str, "Request | None", int, int, float, "Backend | None"]


class AccessLog:
    """Gathers entries; `flush` formats them and hands one text to `write`.

    Everything a client chose is quoted by the JSON encoder, so no input forges a line.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._entries: list[Entry] = []

    def add(
        self,
        client: str,
        request: Request | None,
        status: int,
        body_bytes: int,
        duration_s: float,
        backend: Backend | None,
    ) -> None:
        """`request` is None where none could be read, `backend` where the lb answered itself."""
        self._entries.append((time(), client, request, status, body_bytes, duration_s, backend))
        if len(self._entries) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        if not self._entries:
            return
        entries, self._entries = self._entries, []
        self._write("".join(_format(entry) for entry in entries))


def _format(entry: Entry) -> str:
    ended, client, request, status, body_bytes, duration_s, backend = entry
    return _LINE % (
        datetime.fromtimestamp(ended, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        client,
        json.dumps(request and request.method.decode("latin-1")),
        json.dumps(request and request.target[:_TARGET_LIMIT].decode("latin-1")),
        status,
        body_bytes,
        duration_s * 1000,
        json.dumps(backend and backend.name),
    )
