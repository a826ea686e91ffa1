"""What the README shows, run as it stands in a copy of the tree that nothing was done in yet."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from lbctl.runtime.containers import Names
from tests.docker.conftest import Project
from tests.support import sessions
from tests.support.cli import Cli
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.docker
NAME = "lbctl"
NOT_IN_A_CLONE = shutil.ignore_patterns(".git", ".venv", "build", "site", "__pycache__", ".*_cache")


@pytest.fixture
def cli() -> Iterator[Cli]:
    if any(Project(Names(NAME)).objects().values()):
        pytest.skip(f"a project {NAME} is on this engine already")
    ensure_images()
    # pip says what it thinks of the machine's configuration; the reader's is another one.
    one = Cli(NAME, "docker", settings={"PIP_QUIET": "2", "LBCTL_WORKERS": "2"})
    try:
        yield one
    finally:
        one.clean()


def test_a_newcomer_sees_what_the_readme_shows(cli: Cli, tmp_path: Path) -> None:
    clone = tmp_path / "lbctl"
    shutil.copytree(sessions.ROOT, clone, ignore=NOT_IN_A_CLONE)
    settings = {k: v for k, v in cli.environment.items() if k != "LBCTL_RUNTIME"}
    here = sessions.addresses_of(cli)
    wrong = sessions.play("README.md", settings, here, clone, within=300)
    assert not wrong, "\n".join(wrong)
