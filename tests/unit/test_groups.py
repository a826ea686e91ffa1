"""tests/conftest.py: a group that cannot run is told, and where it must run it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_ENGINE = "unix:///nonexistent/docker.sock"


def pytest_run(*arguments: str, require: str = "") -> subprocess.CompletedProcess[str]:
    """This very suite on a machine without an engine."""
    env = {**os.environ, "DOCKER_HOST": NO_ENGINE, "LBCTL_TEST_REQUIRE": require}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_group_left_out_is_told_with_the_reason() -> None:
    done = pytest_run("tests/docker/test_images.py", "tests/unit/test_paths.py")
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("docker ")]
    (line,) = lines
    assert "LEFT OUT" in line
    assert "no Docker engine" in line
    assert "nginx    not asked for" in done.stdout
    assert "unit     " in done.stdout


@pytest.mark.parametrize(
    ("require", "says"),
    [
        ("docker", "LBCTL_TEST_REQUIRE names docker, which cannot run: no Docker engine"),
        ("unit, docker", "names docker"),
        ("doker", "'doker' is none of unit, nginx, docker, browser"),
    ],
)
def test_a_required_group_that_cannot_run_is_a_failure(require: str, says: str) -> None:
    done = pytest_run("tests/unit/test_paths.py", require=require)
    assert done.returncode != 0
    assert says in done.stderr
