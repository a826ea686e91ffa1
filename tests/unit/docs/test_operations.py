"""What operations.md has for other programs to read."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl import paths
from lbctl.cli.app import lbctl

if TYPE_CHECKING:
    import pytest

TEXT = (Path(__file__).parents[3] / "docs/operations.md").read_text(encoding="utf-8")


def test_the_unit_for_systemd_names_the_file_that_has_the_supervisors_pid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block = re.search(r"(?:^    .*\n|^\n)+(?=^`KillMode)", TEXT, re.MULTILINE)
    assert block is not None
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(re.sub(r"^    ", "", block[0], flags=re.MULTILINE))
    service = unit["Service"]
    name, _, value = service["Environment"].partition("=")
    monkeypatch.setenv(name, value)
    assert service["PIDFile"] == str(paths.local("lbctl").lock)
    _, *arguments = service["ExecStart"].split()
    given = lbctl.commands[arguments[0]].make_context(arguments[0], arguments[1:]).params
    assert given["runtime"] == "local"
