"""What a storm saw, and how it is shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from benchmarks.support.mutations import Shot
    from benchmarks.support.volley import Seen

ENOUGH = 20
"""Findings after which a storm ends."""
_BAR = 40


@dataclass
class Tally:
    """Counts shots by what came back; `findings` is empty if all is well."""

    fired: int = 0
    checks: int = 0  # good requests that were answered as they should be
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    @property
    def enough(self) -> bool:
        return len(self.findings) >= ENOUGH

    def saw(self, statuses: Sequence[int], seen: Seen) -> None:
        """A shot was answered, or not, and its connection has ended."""
        self.fired += 1
        for status in statuses:
            self.outcomes[str(status)] += 1
        if not statuses:
            self.outcomes["reset, no answer" if seen.was_reset else "closed, no answer"] += 1

    def left(self) -> None:
        """A shot whose sender did not wait for what comes back."""
        self.fired += 1
        self.outcomes["we reset"] += 1

    def blame(self, shot: Shot, what: str, seen: Seen | None = None) -> None:
        """A finding, with all that is needed to have it again."""
        came = f"; came back: {seen.data[:1_000]!r}" if seen is not None else ""
        self.findings.append(f"{what}{came}\n  {shot}")

    def show(self, console: Console) -> None:
        """A histogram, the facts, the findings."""
        table = Table("outcome", "count", "", title=f"{self.fired:,} shots")
        most = max(self.outcomes.values(), default=1)
        for outcome, count in sorted(self.outcomes.items()):
            table.add_row(outcome, f"{count:,}", "#" * max(1, count * _BAR // most))
        console.print(table)
        for fact in self.facts:
            console.print(Text(fact), soft_wrap=True)
        for finding in self.findings:
            console.print(Text(f"FINDING {finding}", "red"), soft_wrap=True)
        console.print(Text(self.summary), soft_wrap=True)

    @property
    def summary(self) -> str:
        return (
            f"{self.fired:,} shots, {self.checks:,} good requests between them, "
            f"{len(self.findings)} findings"
        )
