"""docs/troubleshooting.md quotes what the product says, and no reason is missing in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lbctl.config import LEAVES
from lbctl.core import allowlist
from lbctl.model import State
from tests.support import sayings

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
WORDS = re.compile(r"[a-z]{2,}.* .*[a-z]{2,}|\.\.\.")
NOT_SAYINGS = re.compile(
    r"^(lbctl|docker|make|curl|journalctl|chown|top|ulimit|ssh|-v|/|\.|--)|[{|=]|^LBCTL_"
)


def quoted() -> list[str]:
    """What stands in the first columns of the tables, and reads like a message."""
    found = []
    for line in TEXT.splitlines():
        if line.startswith("| ") and not line.startswith("|---"):
            columns = line.split(" | ")[:2]
            found += re.findall(r"`([^`]+)`", " ".join(columns))
    return sorted({one for one in found if WORDS.search(one) and not NOT_SAYINGS.search(one)})


@pytest.mark.parametrize("message", quoted())
def test_what_is_quoted_is_said(message: str) -> None:
    assert sayings.is_said(message)


def test_messages_are_found_and_one_that_nobody_says_is_noticed() -> None:
    assert len(quoted()) > 50
    assert sayings.is_said("port ... is in use by ...")
    assert not sayings.is_said("port ... is used by ...")
    assert not sayings.is_said("the moon is in use")


def test_every_reason_of_a_refusal_is_explained() -> None:
    listed = set(
        re.findall(r"`([a-z_0-9]+)`", _between("## Requests are answered", "## Requests are slow"))
    )
    assert len(sayings.refusals()) > 25
    assert sayings.refusals() <= listed


def test_every_state_is_explained() -> None:
    listed = set(
        re.findall(r"`([a-z]+)`", _between("## A backend is out", "## A backend was ejected"))
    )
    assert {state.value for state in State if state is not State.UP} <= listed


def test_settings_that_are_named_exist() -> None:
    named = set(re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", TEXT))
    settings = {name for name in named if name.endswith(("_s", "_bytes", "_min", "_retries"))}
    assert len(settings) > 10
    assert settings - sayings.refusals() - set(allowlist.REASONS) <= set(LEAVES)


def _between(first: str, last: str) -> str:
    _, _, after = TEXT.partition(f"\n{first}")
    text, _, _ = after.partition(f"\n{last}")
    return text
