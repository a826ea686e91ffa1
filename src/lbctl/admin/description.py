"""The OpenAPI document: written by hand, but for the settings, of which config.py is the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbctl.config import LEAVES, Config, settings_of

if TYPE_CHECKING:
    from lbctl.config import Leaf

_FILE = Path(__file__).with_name("openapi.json")
_KINDS = {int: "integer", float: "number", str: "string"}


def openapi(version: str) -> dict[str, Any]:
    """The document for this version of lbctl."""
    document: dict[str, Any] = json.loads(_FILE.read_bytes())
    document["info"]["version"] = version
    document["components"]["schemas"]["Settings"]["properties"] = {
        name: _schema(LEAVES[name]) for name in settings_of(Config())
    }
    return document


def _schema(leaf: Leaf) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _KINDS[leaf.kind], "description": leaf.help}
    if leaf.choices:
        schema["enum"] = list(leaf.choices)
    if leaf.low is not None:
        schema["minimum"] = leaf.low
    if leaf.high is not None:
        schema["maximum"] = leaf.high
    return schema
