"""What the product can say: the texts in its sources, with `...` for what is filled in."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src" / "lbctl"

_JOINT = re.compile(": |; |, ")
_FORMAT = re.compile(r"%(?:\.\d+)?[sdrgf]")


@cache
def texts() -> frozenset[str]:
    """Every text in the sources that is no docstring."""
    found = set()
    for file in SOURCES.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found.add(_flat(node))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(_plain(node.value))
    return frozenset(found)


def is_said(message: str) -> bool:
    """Whether some text has it, or one text has its beginning and others what is filled in after
    that. `...` stands for whatever is filled in.
    """
    message = " ".join(message.split())
    if _is_a_part(message):
        return True
    return any(
        _is_a_part(message[: cut.end()] + "...") and is_said(message[cut.end() :])
        for cut in _JOINT.finditer(message)
    )


@cache
def _is_a_part(message: str) -> bool:
    pattern = re.compile(".*?".join(map(re.escape, message.split("..."))))
    return any(pattern.search(text) for text in texts())


@cache
def refusals() -> frozenset[str]:
    """The reasons of lbctl_refused_total, wherever one is given to an answer of the lb's own."""
    found: set[str] = set()
    for file in (*SOURCES.glob("core/*.py"), *SOURCES.glob("proxy/*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _called(node) in _REFUSING and len(node.args) > 1:
                found.update(_constants(node.args[1]))
            elif isinstance(node, ast.Assign) and _names(node) & _NAMED:
                found.update(_constants(node.value))
    return frozenset(found)


_REFUSING = {"ProtocolError", "_refuse", "connect_failed"}
_NAMED = {"DENIED", "TOO_MANY", "LIMITED", "_REASON", "_TIMED_OUT"}


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _names(assignment: ast.Assign) -> set[str]:
    return {
        node.id for target in assignment.targets for node in ast.walk(target)
        if isinstance(node, ast.Name)
    }  # fmt: skip


def _constants(node: ast.expr) -> set[str]:
    if isinstance(node, ast.IfExp):
        return _constants(node.body) | _constants(node.orelse)
    if isinstance(node, ast.Tuple):
        return {text for part in node.elts for text in _constants(part)}
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    return set()


def _flat(text: ast.JoinedStr) -> str:
    parts = (one.value if isinstance(one, ast.Constant) else "..." for one in text.values)
    return _plain("".join(map(str, parts)))


def _plain(text: str) -> str:
    return " ".join(_FORMAT.sub("...", text).split())
