"""The sessions that the documents show, run as they stand on the local runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lbctl.runtime.local import first_address
from tests.support import sessions

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cli import Cli


@pytest.mark.parametrize("document", sorted(sessions.ON_LOCAL))
def test_a_session_goes_as_documented(document: str, cli: Cli, tmp_path: Path) -> None:
    here = sessions.addresses_of(cli) | {
        "lbctl-backend-": f"{cli.project}-backend-",
        _network("lbctl"): _network(cli.project),
    }
    wrong = sessions.play(document, cli.environment, here, tmp_path, within=120)
    assert not wrong, "\n".join(wrong)


def _network(project: str) -> str:
    """How the addresses of its backends begin."""
    return str(first_address(project)).rpartition(".")[0] + "."
