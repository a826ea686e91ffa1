"""How the processes of one lb talk: JSON documents, one a line, over unix sockets.

controller -> worker      {"snapshot": {revision, generation, routes}}
worker -> controller      {"hello": {life, name}}, {"report": {...}}, {"suspect": id},
                          {"failing": id, "reason": "connect" | "5xx" | "timeout"}
other lb -> leader        {"peer": lb, "settings": digest}, {"processes": [...]},
                          {"reloaded": error}
leader -> other lb        {"reload": {}}
controller -> supervisor  {"id": n} with one of {"run": {...}}, {"stop": {...}}, {"reload": {}}
supervisor -> controller  {"id": n, "error": ""},
                          {"processes": [...], "programs": [...], "certificates": [...]}
"""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lbctl.model import Backend, Certificate, Process, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

ENDING = "the lb is ending"
"""Why a reload was not done, where that is no reason to give it up for all lbs."""

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


def process_rows(processes: Iterable[Process]) -> list[dict[str, Any]]:
    return [
        dataclasses.asdict(process) | {"started_at": process.started_at.isoformat()}
        for process in processes
    ]


def processes_of(rows: list[dict[str, Any]], lb: str) -> tuple[Process, ...]:
    """The inverse, for the processes of one lb. Raises KeyError, TypeError or ValueError."""
    return tuple(
        Process(
            str(row["role"]),
            str(row["name"]),
            int(row["pid"]),
            int(row["restarts"]),
            datetime.fromisoformat(row["started_at"]),
            lb,
        )
        for row in rows
    )


def certificate_rows(certificates: Iterable[Certificate]) -> list[dict[str, Any]]:
    """Without their DNS names: nobody asks for them, and they may be many."""
    return [
        {"name": one.name, "not_before_s": one.not_before_s, "not_after_s": one.not_after_s}
        for one in certificates
    ]


def certificates_of(rows: Iterable[dict[str, Any]]) -> tuple[Certificate, ...]:
    """The inverse. Raises KeyError, TypeError or ValueError."""
    return tuple(
        Certificate(str(row["name"]), (), int(row["not_before_s"]), int(row["not_after_s"]))
        for row in rows
    )
