"""Text that somebody else chose, made fit to be shown."""

from __future__ import annotations


def printable(text: str, limit: int = 200) -> str:
    """`text` on one line, without control, format or bidirectional characters (each becomes
    "?"), and with everything past `limit` characters replaced by "...".

    Names, labels and error texts from outside pass through here before they are logged or
    shown: they can neither forge a log line nor steer a terminal.
    """
    cut = text if len(text) <= limit else text[: max(limit - 3, 0)] + "..."
    return "".join(char if char.isprintable() else "?" for char in cut)
