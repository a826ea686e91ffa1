"""The layers of docs/architecture.md: a module imports only what stands to its right.

cli -> process, deploy, verify -> guard -> admin, control, proxy, runtime
    -> assets, certificates, sockets, timed, tokens -> ports, config, paths
    -> core -> model -> errors
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lbctl

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(lbctl.__file__).parent
LAYERS = (
    {"__main__"},
    {"cli"},
    {"process", "deploy", "verify"},
    {"guard"},
    {"admin", "control", "proxy", "runtime"},
    {"assets", "certificates", "sockets", "timed", "tokens"},
    {"ports", "config", "paths"},
    {"core"},
    {"model"},
    {"errors"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# What a pure core may not even import: time, chance and the outside are arguments.
IMPURE = {
    "asyncio", "concurrent", "fcntl", "gzip", "http", "io", "logging", "multiprocessing", "os",
    "pathlib", "queue", "random", "secrets", "select", "selectors", "shutil", "signal", "socket",
    "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "now", "utcnow", "today"}

# Libraries that belong to one place, so that their exceptions are mapped there.
HOMES = {
    "aiodocker": {"runtime"},
    "aiohttp": {"admin", "control", "guard", "runtime", "cli", "timed"},
    "click": {"cli"},
    "rich": {"cli"},
    "prometheus_client": {"admin"},
    "sqlite3": {"control"},
    "uvloop": {"process"},
}


@dataclass(frozen=True)
class Import:
    """One imported module, by its full dotted name; `typing_only` is under TYPE_CHECKING."""

    module: str
    line: int
    typing_only: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "images" not in path.parts)


def component(path: Path) -> str:
    """The package or module directly under lbctl that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ("lbctl", *path.relative_to(PACKAGE).with_suffix("").parts)[:-1]
    yield from _walk(tree, package, typing_only=False)


def _walk(node: ast.AST, package: tuple[str, ...], *, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, typing_only)
        elif isinstance(child, ast.ImportFrom):
            base = package[: len(package) - child.level + 1] if child.level else ()
            module = ".".join((*base, *filter(None, [child.module])))
            for alias in child.names:
                # `from lbctl import core` and `from lbctl.core import http1` alike.
                yield Import(f"{module}.{alias.name}", child.lineno, typing_only)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for statement in child.body:
                yield from _walk(ast.Module([statement], []), package, typing_only=True)
            for statement in child.orelse:
                yield from _walk(ast.Module([statement], []), package, typing_only=typing_only)
        else:
            yield from _walk(child, package, typing_only=typing_only)


def breaches(path: Path) -> list[str]:
    """Every import of a file that the layers forbid."""
    here = component(path)
    found = []
    for each in imports(path):
        if each.top == "lbctl":
            parts = each.module.split(".")
            there = parts[1]
            if there in RANK and there != here and RANK[there] <= RANK[here]:
                found.append(f"{path.name}:{each.line}: {here} imports {each.module}")
        elif each.top in HOMES and here not in HOMES[each.top]:
            found.append(f"{path.name}:{each.line}: {here} imports {each.top}")
        if here in ("core", "model", "errors") and not each.typing_only:
            if each.top in IMPURE:
                found.append(f"{path.name}:{each.line}: {here} is pure, yet imports {each.top}")
            elif each.top != "lbctl" and each.top not in sys.stdlib_module_names:
                found.append(f"{path.name}:{each.line}: {here} imports {each.top}")
    return found


def test_every_module_has_its_layer() -> None:
    assert {component(path) for path in files()} - {"__init__"} <= set(RANK)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    if component(path) != "__init__":
        assert breaches(path) == []


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "core").rglob("*.py")), ids=lambda path: path.name
)
def test_core_takes_no_clock_and_touches_nothing(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else None
            name = function.attr if isinstance(function, ast.Attribute) else name
            assert name not in IMPURE_CALLS, f"{path.name}:{node.lineno} calls {name}()"


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("core/x.py", "import asyncio"),
        ("core/x.py", "from random import Random"),
        ("core/x.py", "from lbctl import config"),
        ("core/x.py", "import aiohttp"),
        ("proxy/x.py", "from lbctl.control import prober"),
        ("proxy/x.py", "from lbctl import admin"),
        ("proxy/x.py", "from ..admin import api"),
        ("proxy/x.py", "import aiohttp"),
        ("control/x.py", "def f():\n    from lbctl.process import worker"),
        ("admin/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lbctl.cli"),
        ("process/x.py", "import lbctl.deploy.docker"),
        ("model.py", "from lbctl.core import http1"),
        ("cli/x.py", "import aiodocker"),
    ],
)
def test_a_breach_is_found(
    where: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    path = tmp_path / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    assert breaches(path)


def test_a_type_of_chance_is_no_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    path = tmp_path / "core" / "x.py"
    path.parent.mkdir()
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from random import Random\n",
        encoding="utf-8",
    )
    assert breaches(path) == []
