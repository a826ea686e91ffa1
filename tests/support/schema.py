"""docs/logging.schema.json, and as much of JSON Schema as it uses. A keyword that is not known
here is an error, so that nothing in it goes unchecked.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "docs" / "logging.schema.json"
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_SAID_ONLY = {"$schema", "$defs", "title", "description"}


@functools.cache
def logs() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return document


def check_line(line: str) -> dict[str, Any]:
    """One line of a log, parsed. Raises AssertionError with what is wrong."""
    assert line.isascii()
    assert len(line) < 4096
    try:
        value = json.loads(line)
    except ValueError as error:
        raise AssertionError(f"no JSON ({error}): {line[:300]!r}") from None
    assert isinstance(value, dict), line[:300]
    kind = logs()["$defs"].get(value.get("log"))
    assert kind is not None, line[:300]
    wrong = list(faults(value, kind))
    assert not wrong, (wrong, line[:300])
    assert not list(faults(value, logs()))
    return value


def faults(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """What about `value` is not as `schema` has it."""
    found: list[str] = []
    for keyword, rule in schema.items():
        if keyword not in _SAID_ONLY:
            found += _faults_of(keyword, rule, value, schema, where)
    return found


def _faults_of(
    keyword: str, rule: Any, value: Any, schema: dict[str, Any], where: str
) -> list[str]:
    known = isinstance(value, bool) or not isinstance(value, (int, float))
    match keyword:
        case "$ref":
            return faults(value, logs()["$defs"][rule.removeprefix("#/$defs/")], where)
        case "oneOf":
            right = sum(not faults(value, one, where) for one in rule)
            return [] if right == 1 else [f"{where}: {right} of oneOf"]
        case "type":
            names = [rule] if isinstance(rule, str) else rule
            kinds = tuple(kind for name in names for kind in _TYPES[name])
            right = isinstance(value, kinds) and not isinstance(value, bool)
            return [] if right else [f"{where}: {value!r} is no {rule}"]
        case "const":
            return [] if value == rule else [f"{where}: not {rule}"]
        case "enum":
            return [] if value in rule else [f"{where}: {value!r} is none of {rule}"]
        case "pattern":
            return [] if re.search(rule, str(value)) else [f"{where}: {value!r} unlike {rule}"]
        case "minimum":
            return [] if known or value >= rule else [f"{where}: {value} is under {rule}"]
        case "maximum":
            return [] if known or value <= rule else [f"{where}: {value} is over {rule}"]
        case "minLength":
            return [] if value is None or len(value) >= rule else [f"{where}: shorter than {rule}"]
        case "maxLength":
            return [] if value is None or len(value) <= rule else [f"{where}: longer than {rule}"]
        case "required":
            return [f"{where}: {name} is missing" for name in rule if name not in value]
        case "properties":
            inner = [(name, one) for name, one in rule.items() if name in value]
            return [fault for name, one in inner for fault in faults(value[name], one, name)]
        case "additionalProperties":
            assert rule is False
            return [f"{where}: {name}?" for name in value if name not in schema["properties"]]
    raise NotImplementedError(keyword)
