"""What every backend serves, held against what should be in rotation."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from tests.support.cli import get

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.cli import Cli


def expected_list(ips: Iterable[str]) -> str:
    """ips.txt of exactly these: numeric order, one a line."""
    return "".join(f"{ip}\n" for ip in sorted(ips, key=IPv4Address))


def assert_lists(cli: Cli, count: int) -> None:
    """Exactly `count` backends are up, and each serves exactly their addresses, both ways."""
    rows = cli.backends()
    assert len(rows) == count, [(row["name"], row["state"], row["reason"]) for row in rows]
    wanted = expected_list(row["ip"] for row in rows)
    for row in rows:
        served = f"http://{row['ip']}:{row['port']}"
        assert get(f"{served}/ips.txt") == wanted, row["name"]
        document = json.loads(get(f"{served}/ips.json"))
        assert {one["ip"] for one in document["backends"]} == {one["ip"] for one in rows}
