"""promtool, Prometheus' own checker (Debian's package prometheus has it)."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REQUIRE

if TYPE_CHECKING:
    from pathlib import Path


def promtool(*words: str, given: str | None = None, where: Path | None = None) -> str:
    """What it says, once it has found nothing; leaves the test out where there is no promtool,
    unless groups of tests are required to run.
    """
    if shutil.which("promtool") is None:
        if os.environ.get(REQUIRE):
            pytest.fail("no promtool on PATH: apt-get install prometheus")
        pytest.skip("no promtool on PATH")
    done = subprocess.run(
        ["promtool", *words], input=given, cwd=where, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
