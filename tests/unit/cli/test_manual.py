"""docs/cli.md has every command, every option that help shows, and what --json prints."""

from __future__ import annotations

import re

import click
import pytest

from lbctl.cli import manual
from lbctl.cli.app import lbctl

TEXT = manual.text()
COMMANDS = dict(manual._all(lbctl))


def section(name: str) -> str:
    _, _, after = TEXT.partition(f"\n## `lbctl {name}")
    assert after, name
    return after.partition("\n## ")[0]


def test_groups_are_opened() -> None:
    assert "token rotate" in COMMANDS
    assert "token" not in COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_its_help_and_its_options(name: str) -> None:
    command, text = COMMANDS[name], section(name)
    assert (command.help or "").strip().splitlines()[0] in text
    for one in command.params:
        if (
            isinstance(one, click.Option)
            and not one.hidden
            and one.name not in ("project", "debug")
        ):
            assert f"`{max(one.opts, key=len)}`" in text
    assert "Sentinel" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_with_json_says_what_it_prints(name: str) -> None:
    with_json = any("--json" in one.opts for one in COMMANDS[name].params)
    assert ("| with `--json` | |" in section(name)) is with_json
    assert (name in manual.SHAPES) is with_json


def test_tables_are_whole() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    assert len(rows) > 100
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 3, row


def test_exit_statuses_are_told() -> None:
    for status in (0, 1, 2, 3, 130):
        assert f"\n| {status} | " in TEXT
