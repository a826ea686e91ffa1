"""What a soak found, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.support.growth import Trend
    from benchmarks.support.traffic import Failure

_SHOWN_AT_MOST = 20


@dataclass(frozen=True, slots=True)
class Measured:
    """One series of measurements, and how much of a rise is tolerated."""

    what: str
    unit: str  # "bytes", or "" for a count
    trend: Trend
    tolerated: float

    @property
    def grows(self) -> bool:
        return self.trend.grows(self.tolerated)

    def text(self, value: float) -> str:
        return f"{value / 2**20:.2f} MiB" if self.unit == "bytes" else f"{value:.1f}"


@dataclass
class Outcome:
    """What a soak found. `excused`: failures of a kind that a killed backend may cost."""

    failures: list[Failure] = field(default_factory=list)
    excused: list[Failure] = field(default_factory=list)
    answered: dict[str, int] = field(default_factory=dict)
    slowest_s: dict[str, float] = field(default_factory=dict)
    changes: int = 0
    kills: int = 0
    log_lines: int = 0
    measured: list[Measured] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Nothing failed, and what was measured does not grow."""
        return not self.failures and not any(one.grows for one in self.measured)

    @property
    def summary(self) -> str:
        total = sum(self.answered.values())
        growing = [one.what for one in self.measured if one.grows]
        kills = f", {self.kills} kills ({len(self.excused)} failures excused)" if self.kills else ""
        return (
            f"{total:,} requests, {self.changes} changes of membership{kills}, "
            f"{len(self.failures)} failed, growing: {', '.join(growing) or 'nothing'}"
        )

    def show(self, console: Console) -> None:
        """Two tables, the failures, and one line that says it all."""
        asked = Table("kind", "answered", "slowest", title="requests")
        for kind, count in sorted(self.answered.items()):
            asked.add_row(kind, f"{count:,}", f"{self.slowest_s[kind] * 1000:.0f} ms")
        console.print(asked)
        kept = Table(
            "what", "first quarter", "last quarter", "rise", "highest", "tolerated", "verdict",
            title="after the warm-up",
        )  # fmt: skip
        for one in self.measured:
            seen = one.trend
            values = (seen.first, seen.last, seen.rise, seen.highest, one.tolerated)
            verdict = Text("GROWS", "bold red") if one.grows else Text("steady")
            kept.add_row(one.what, *(one.text(value) for value in values), verdict)
        console.print(kept)
        for failure in self.failures[:_SHOWN_AT_MOST]:
            console.print(Text(f"FAILURE {failure}", "red"), soft_wrap=True)
        if len(self.failures) > _SHOWN_AT_MOST:
            console.print(Text(f"and {len(self.failures) - _SHOWN_AT_MOST} more failures"))
        console.print(Text(self.summary), soft_wrap=True)


def clock(seconds: float) -> str:
    """61 s as 1:01."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
