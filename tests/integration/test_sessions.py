"""The sessions that the documents show, run as they stand on the local runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import sessions
from tests.support.cli import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cli() -> Iterator[Cli]:
    # The addresses of the local runtime follow from the project's name.
    one = Cli("lbctl", "local", settings={"LBCTL_WORKERS": "2"})
    try:
        yield one
    finally:
        one.clean()


@pytest.mark.parametrize("document", sorted(sessions.ON_LOCAL))
def test_a_session_goes_as_documented(document: str, cli: Cli, tmp_path: Path) -> None:
    ports = {8080: cli.port, 9900: cli.admin_port}
    wrong = sessions.play(document, cli.environment, ports, tmp_path, within=120)
    assert not wrong, "\n".join(wrong)
