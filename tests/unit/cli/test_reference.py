"""The reference tells of every setting how to say it, and shows a file that is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lbctl import config
from lbctl.cli import reference
from lbctl.config import LEAVES, Config

if TYPE_CHECKING:
    from pathlib import Path

ROWS = {
    line.split("`")[1]: line for line in reference.text().splitlines() if line.startswith("| `")
}


@pytest.mark.parametrize("name", LEAVES)
def test_a_row_has_all_there_is_to_know(name: str) -> None:
    leaf = LEAVES[name]
    dashed = name.replace("_", "-")
    names, takes, default, about = ROWS[name].strip("| ").split(" | ")
    assert names == f"`{name}`<br>`LBCTL_{name.upper()}`<br>`--{dashed}`"
    assert takes
    assert default == "none" or leaf.kind(default.strip("`")) == leaf.default
    assert about == leaf.help


def test_rows_as_they_stand() -> None:
    starts = {
        "connect_timeout_s": "| seconds, at least 0.01 | 2 | to open a connection",
        "head_limit_bytes": "| bytes, at least 256 | 32768 |",
        "retry_budget_percent": "| percent, 0 to 100 | 20 |",
        "fall": "| whole number, at least 1 | 3 |",
        "hash_load": "| number, 1.01 to 100 | 1.25 |",
        "balance": "| `round-robin`, `least-connections`, `p2c`, `consistent-hash` |",
        "sticky_cookie": "| text | none |",
        "workers": "| whole number, 0 to 1024 | 0 |",
        "replicas": "| whole number, 1 to 10000 | none |",
    }
    for name, start in starts.items():
        assert f"` {start}" in ROWS[name]


def test_every_section_has_a_table_of_its_own() -> None:
    text = reference.text()
    for section in {leaf.section for leaf in LEAVES.values() if leaf.section}:
        assert text.count(f"\n## `[{section}]`\n") == 1
    assert len(ROWS) == len(LEAVES)


def test_the_example_is_a_file_that_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    file.write_text(reference.EXAMPLE, encoding="utf-8")
    settings = config.load(environ={}, file=file)
    assert settings.workers == 4
    assert settings.balancing.slow_start_s == 30
    assert settings != Config()
    assert reference.EXAMPLE in reference.text()
