"""What `lbctl doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How much a finding matters. Only LACK keeps something from running."""

    OK = "ok"
    HINT = "hint"
    LACK = "lack"


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing; `remedy` is empty where all is well."""

    level: Level
    subject: str
    text: str
    remedy: str = ""
