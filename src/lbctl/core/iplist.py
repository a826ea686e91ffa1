"""The list as the backends serve it: `ips.txt` and `ips.json`, byte for byte.

The formats are a contract with users' scripts; see docs for what they may rely on.
"""

from __future__ import annotations

import json
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from lbctl.model import Membership


def address_key(ip: str) -> tuple[int, ...]:
    """Sorts dotted IPv4 addresses by number, so that 10.0.0.9 stands before 10.0.0.10."""
    return tuple(int(part) for part in ip.split("."))


def timestamp(moment: datetime) -> str:
    """An aware datetime as UTC with milliseconds: 2026-11-22T10:00:00.123Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + (
        f"{moment.microsecond // 1000:03d}Z"
    )


def render_text(membership: Membership) -> bytes:
    """One address a line in numeric order, each line ended; no byte at all for an empty list."""
    return "".join(f"{member.backend.ip}\n" for member in membership.members).encode()


def render_json(membership: Membership) -> bytes:
    """The list with its generation, and who is behind each address since when."""
    document = {
        "generation": membership.generation,
        "updated_at": timestamp(membership.updated_at),
        "backends": [
            {
                "ip": member.backend.ip,
                "id": member.backend.id,
                "name": member.backend.name,
                "since": timestamp(member.since),
            }
            for member in membership.members
        ],
    }
    return (json.dumps(document) + "\n").encode()
