"""Counters of something that starts anew with each life, and must not go back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from lbctl.model import GuardCounts


@dataclass(frozen=True, slots=True)
class Tally:
    """What the life of now has counted, by its name, and all that others did before it."""

    life: str = ""
    now: GuardCounts = field(default_factory=GuardCounts)
    before: GuardCounts = field(default_factory=GuardCounts)

    def heard(self, life: str, counts: GuardCounts) -> Tally:
        """With what a life told, which is everything since its beginning."""
        before = self.before if life == self.life else self.total
        return Tally(life, counts, before)

    @property
    def total(self) -> GuardCounts:
        """Of all lives."""
        refused = Counter(self.before.refused) + Counter(self.now.refused)
        return GuardCounts(self.before.requests + self.now.requests, dict(refused))


def to_document(tally: Tally) -> dict[str, Any]:
    """As JSON knows it; `from_document` is the inverse."""
    return {"life": tally.life, "now": _document(tally.now), "before": _document(tally.before)}


def from_document(document: Any) -> Tally:
    """Raises ValueError for anything that `to_document` would not have written."""
    try:
        return Tally(str(document["life"]), _counts(document["now"]), _counts(document["before"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"no saved counters: {error!r}") from None


def _document(counts: GuardCounts) -> dict[str, Any]:
    return {"requests": counts.requests, "refused": dict(counts.refused)}


def _counts(document: Any) -> GuardCounts:
    refused = {str(reason): int(count) for reason, count in document["refused"].items()}
    return GuardCounts(int(document["requests"]), refused)
