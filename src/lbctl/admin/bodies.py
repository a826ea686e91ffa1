"""What the bodies of changes say. Every reader raises UsageError for anything else at all."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, TypeGuard

from lbctl.config import MAX_REPLICAS
from lbctl.core.text import printable
from lbctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,254}")


def parse_scale(raw: bytes) -> int:
    """The number in `{"replicas": N}`."""
    replicas = _members(raw, {"replicas": "N"}).get("replicas")
    if not _is_count(replicas):
        raise UsageError(f"replicas must be a whole number from 1 to {MAX_REPLICAS}")
    return replicas


def parse_rollout(raw: bytes) -> tuple[str, int]:
    """Image ("" for the present one) and batch of `{"image": "REF", "batch": N}`, both optional."""
    document = _members(raw, {"image": '"REF"', "batch": "N"})
    image, batch = document.get("image", ""), document.get("batch", 1)
    if not isinstance(image, str) or not (image == "" or _IMAGE.fullmatch(image)):
        raise UsageError("image must be the name of an image, name:tag for one")
    if not _is_count(batch):
        raise UsageError(f"batch must be a whole number from 1 to {MAX_REPLICAS}")
    return image, batch


def parse_reload(raw: bytes) -> dict[str, Any] | None:
    """The settings in `{"settings": {...}}`; None where there are none."""
    settings = _members(raw, {"settings": "{...}"}).get("settings")
    if settings is not None and not isinstance(settings, dict):
        raise UsageError("settings must be an object")
    return settings


def parse_nothing(raw: bytes) -> None:
    """`{}`."""
    _members(raw, {})


def _is_count(number: object) -> TypeGuard[int]:
    # bool is an int to Python, not to whoever wrote the body.
    return type(number) is int and 1 <= number <= MAX_REPLICAS


def _members(raw: bytes, known: Mapping[str, str]) -> dict[str, Any]:
    """The object in a body; `known` has its keys, with the values that a message shows.

    Raises UsageError where it is none, or has other keys.
    """
    try:
        document = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError):
        raise UsageError("the body is not JSON") from None
    if not isinstance(document, dict):
        shape = ", ".join(f'"{key}": {value}' for key, value in known.items())
        raise UsageError(f"the body must be an object: {{{shape}}}")
    unknown = sorted(set(document) - set(known))
    if unknown:
        names = " and ".join(map(repr, known))
        only = f"the only {'one is' if len(known) == 1 else 'ones are'} {names}"
        raise UsageError(
            f"unknown key {printable(unknown[0], 40)!r}; {only if known else 'there are none'}"
        )
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: two readers of one body must not see two numbers."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key stands twice")
    return document


def _finite(text: str) -> float:
    """1e999 is a number to JSON, and none that can be told to anybody as JSON again."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too great")
    return number


def _no_constant(name: str) -> float:
    """NaN and Infinity are Python's, not JSON's (RFC 8259, section 6)."""
    raise ValueError(f"{name} is no JSON")
