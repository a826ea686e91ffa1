"""How the processes of one lb talk: JSON documents, one a line, over unix sockets.

controller -> worker      {"snapshot": {revision, generation, routes}}
worker -> controller      {"hello": {life, name}}, {"report": {...}}, {"suspect": id}
controller -> supervisor  {"id": n, "run": {...}} or {"id": n, "stop": {...}}
supervisor -> controller  {"id": n, "error": ""}, {"processes": [...], "programs": [...]}
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from lbctl.model import Backend, Snapshot

LINE_LIMIT_BYTES = 64 * 1024 * 1024
"""Of one document; a snapshot of 10,000 backends has two million."""


def encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Raises ValueError for what is no object."""
    document = json.loads(line)
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return document


def snapshot_document(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "revision": snapshot.revision,
        "generation": snapshot.generation,
        "routes": [dataclasses.asdict(backend) for backend in snapshot.routes],
    }


def snapshot_of(document: dict[str, Any]) -> Snapshot:
    """The inverse of snapshot_document. Raises KeyError, TypeError or ValueError."""
    return Snapshot(
        revision=int(document["revision"]),
        generation=int(document["generation"]),
        routes=tuple(Backend(**fields) for fields in document["routes"]),
    )
