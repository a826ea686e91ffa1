from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from benchmarks.compare import machine

from lbctl import __version__
from lbctl.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path


def test_this_interpreter_can_run_lbctl(tmp_path: Path) -> None:
    found = machine.interpreter(sys.executable, tmp_path)
    assert found.version.endswith(sys.version.split()[0])
    assert found.loop_ms > 0


@pytest.mark.parametrize(("program", "told"), [("/nowhere/python", "does not run"),
                                               ("/bin/false", "cannot run lbctl")])  # fmt: skip
def test_what_cannot_run_it_is_said(program: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=told):
        machine.interpreter(program, tmp_path)


def test_no_name_of_this_machine_is_told() -> None:
    found = machine.look()
    assert found.kernel.startswith("Linux ")
    assert found.cpus >= 1


def test_the_version_is_lbctls() -> None:
    assert machine.lbctl_version().startswith(__version__)
