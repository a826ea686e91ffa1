"""A Progress that remembers."""

from __future__ import annotations


class Told:
    """What a long operation said, each in its order."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.lines: list[str] = []
        self.parts: list[tuple[float, float, str]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def log(self, line: str) -> None:
        self.lines.append(line)

    def part(self, done: float, total: float, text: str) -> None:
        self.parts.append((done, total, text))
