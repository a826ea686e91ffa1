"""A project of its own on the local runtime, for one test."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cli() -> Iterator[Cli]:
    one = Cli(f"t{secrets.token_hex(4)}", "local", settings={"LBCTL_WORKERS": "2"})
    try:
        yield one
    finally:
        one.clean()
