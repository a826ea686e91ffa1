"""What the documents say exists: settings, files, commands and their flags, fields of the log."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lbctl.cli import manual, reference
from lbctl.cli.app import lbctl
from lbctl.config import LEAVES
from lbctl.core import allowlist
from lbctl.core.origin import Hop, Origin
from lbctl.proxy.accesslog import AccessLog

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
by_name = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """The words after `lbctl`, wherever a document types it."""
    typed = re.findall(r"(?:[`/]|\$ |=\d+ )lbctl ([a-z]+(?: \[?-{0,2}[\w.:=|-]+\]?)*)", text)
    return [re.sub(r"[][]", "", line).split() for line in typed]


def test_the_reference_is_what_the_code_says() -> None:
    assert read("docs/configuration.md") == reference.text(), "make reference"


def test_the_manual_is_what_the_code_says() -> None:
    assert read("docs/cli.md") == manual.text(), "make reference"


@pytest.mark.parametrize("made", [reference, manual])
def test_what_is_generated_comes_from_a_program(made: ModuleType) -> None:
    done = subprocess.run(
        [sys.executable, "-m", made.__name__],
        env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert done.stdout == made.text()


@by_name
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    for link in links:
        if not link.startswith("https://"):
            assert (document.parent / link).exists(), link


@by_name
def test_commands_and_their_flags_exist(document: Path) -> None:
    for command, *words in commands(document.read_text(encoding="utf-8")):
        assert command in lbctl.commands, command
        options = {name for each in lbctl.commands[command].params for name in each.opts}
        options.add("--help")
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in options, f"lbctl {command} {word}"


def test_the_guard_s_document_has_every_call_and_every_reason() -> None:
    text = read("docs/guard.md")
    listed = [line.split("|")[1] for line in text.splitlines() if re.match(r"\| `[A-Z]+ /", line)]
    asked = re.findall(r"^    (GET|POST|PUT|DELETE) +(/\S+)", allowlist.__doc__ or "", re.MULTILINE)
    assert len(asked) > 8
    for method, path in asked:
        assert any(f"`{method} {path.partition('?')[0]}" in line for line in listed), path
    for reason in allowlist.REASONS:
        assert f"`{reason}`" in text.partition("## How it refuses")[2], reason


def test_commands_are_found() -> None:
    text = "$ lbctl up --port 80\n`lbctl status [--watch] [--json]`, A=1 lbctl scale 7, lbctl on x"
    assert commands(text) == [
        ["up", "--port", "80"], ["status", "--watch", "--json"], ["scale", "7"],
    ]  # fmt: skip


def test_settings_in_the_readme_exist() -> None:
    _, _, after = read("README.md").partition("## Configure")
    table, _, _ = after.partition("\n## ")
    named = [
        name
        for line in table.splitlines() if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]  # fmt: skip
    assert len(named) > 5
    assert set(named) <= set(LEAVES)


def test_every_policy_is_described() -> None:
    headings = re.findall(r"^## (.+)$", read("docs/balancing.md"), re.MULTILINE)
    assert set(LEAVES["balance"].choices) <= set(headings)
    assert {leaf.name for leaf in LEAVES.values() if leaf.section == "balancing"} <= set(
        re.findall(r"\w+", read("docs/balancing.md").replace("--sticky-cookie", "sticky_cookie"))
    )


def test_the_access_log_has_the_fields_it_is_said_to_have() -> None:
    written: list[str] = []
    log = AccessLog(written.append)
    origin = Origin(Hop("lbctl", "id-"), "192.0.2.7", "http")
    log.add((1.1, 1.0, origin, None, 1, 400, 32, 0.0, 0.0, None, 0))
    log.flush()
    fields = list(json.loads(written[0]))
    _, _, after = read("docs/logging.md").partition("\n## Access\n")
    text, _, _ = after.partition("\n## ")
    (example,) = re.findall(r"^    (\{.+\})$", text, re.MULTILINE)
    assert list(json.loads(example)) == fields
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    described = re.findall(r"`(\w+)`", " ".join(rows))
    assert described == [field for field in fields if field != "log"]


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        named = re.findall(r"(?:`|^    |\$ )make ([a-z]+)", text, re.MULTILINE)
        assert set(named) <= targets, document.name
