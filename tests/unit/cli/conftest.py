from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.unit.cli.machine import Lb, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the environment nor a file of whoever runs the tests counts."""
    for name in list(os.environ):
        if name.startswith("LBCTL_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """One with an engine and an nginx, and no stack."""
    lb = Lb()
    try:
        yield Machine(lb)
    finally:
        lb.close()
