from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.compare.comparison import Comparison, Options
from benchmarks.compare.screen import Screen

from lbctl.errors import UsageError


@pytest.mark.parametrize(
    ("only", "scenarios", "told"),
    [(["haproxie"], None, "--only: haproxie"), (None, ["tiny"], "--scenarios: tiny")],
)
def test_an_unknown_name_is_refused_with_the_known_ones(
    only: list[str] | None, scenarios: list[str] | None, told: str
) -> None:
    with pytest.raises(UsageError, match=rf"{told}: not one of .*"):
        Comparison(Options(1, 1, "python", Path(), only, scenarios), Screen())


def test_the_container_is_known_where_it_is_asked_for() -> None:
    options = Options(1, 1, "python", Path(), ["lbctl-container"], None)
    with pytest.raises(UsageError):
        Comparison(options, Screen())
    Comparison(Options(1, 1, "python", Path(), ["lbctl-container"], container=True), Screen())
