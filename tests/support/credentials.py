"""The tokens of the backends of a running stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lbctl.core.credentials import name_of, token_of
from lbctl.model import Backend

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def token_for(secret: str, row: Mapping[str, Any]) -> str:
    """What opens the admin port of the backend in this row of the status."""
    return token_of(secret, Backend(row["id"], row["name"], row["ip"]))


def names_for(secret: str, rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The names by which these backends know what is drawn from the secret."""
    return {name_of(token_for(secret, row), row["ip"]) for row in rows}


def admit(tokens: Path, token: str, ip: str) -> Path:
    """Make a token known to the nginx at that address, which reads this directory."""
    known = tokens / name_of(token, ip)
    known.touch()
    return known
