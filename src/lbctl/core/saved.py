"""The membership as a JSON document, so that a new controller goes on where the last ended."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lbctl.model import Backend, Member, Membership


@dataclass(frozen=True, slots=True)
class Saved:
    """What outlives a controller: the list, and the revision of the last snapshot."""

    membership: Membership
    revision: int


def to_document(saved: Saved) -> dict[str, Any]:
    """As JSON knows it; `from_document` is the inverse."""
    membership = saved.membership
    return {
        "revision": saved.revision,
        "generation": membership.generation,
        "updated_at": membership.updated_at.isoformat(),
        "members": [
            {"since": member.since.isoformat(), "backend": dataclasses.asdict(member.backend)}
            for member in membership.members
        ],
    }


def from_document(document: Any) -> Saved:
    """Raises ValueError for anything `to_document` would not have written."""
    try:
        members = tuple(
            Member(Backend(**item["backend"]), _moment(item["since"]))
            for item in document["members"]
        )
        generation, revision = document["generation"], document["revision"]
        updated_at = _moment(document["updated_at"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a saved membership: {error!r}") from None
    if type(generation) is not int or type(revision) is not int or min(generation, revision) < 0:
        raise ValueError("not a saved membership: generation and revision count from 0")
    if not all(isinstance(member.backend.id, str) for member in members):
        raise ValueError("not a saved membership: an id is text")
    return Saved(Membership(generation, updated_at, members), revision)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment
