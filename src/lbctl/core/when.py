"""Moments as people write them: `10:00`, `yesterday 10:00`, `5m`, `2h ago`, ISO 8601."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

from lbctl.core.text import printable
from lbctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([smhdw])[a-z]*\s*")
_WORDS = frozenset((
    "s", "sec", "secs", "second", "seconds", "m", "min", "mins", "minute", "minutes",
    "h", "hour", "hours", "d", "day", "days", "w", "week", "weeks",
))  # fmt: skip
_AGO = re.compile(r"-\s*(?P<signed>.+)|(?P<said>.+?)\s+ago|(?P<bare>.+)")
_UNIX = re.compile(r"@?([0-9]{9,11}(?:\.[0-9]{1,9})?)|@([0-9]{1,11}(?:\.[0-9]{1,9})?)")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?")
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([t ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_LENGTH_LIMIT = 64

EXAMPLES = "10:00, 'yesterday 10:00', 5m, '2h ago', 2026-11-27T10:00Z, or unix seconds"


def moment(text: str, now: datetime, local: Callable[[datetime], datetime]) -> datetime:
    """The moment that `text` means, as an aware datetime. `local` gives a naive one its zone.

    A time of day is the last one that was; a duration counts back from `now`. Raises UsageError
    in one line for whatever is no moment.
    """
    said = text.strip().lower() if len(text) <= _LENGTH_LIMIT else ""
    try:
        found = _unix(said) or _ago(said, now) or _day(said, now, local) or _iso(said, local)
    except (ValueError, OverflowError):
        found = None
    if found is None:
        raise UsageError(f"{printable(text, 40)!r} is no time: {EXAMPLES}")
    return found


def utc(naive: datetime) -> datetime:
    """A zone for those who have none of their own."""
    return naive.replace(tzinfo=UTC)


def _unix(said: str) -> datetime | None:
    found = _UNIX.fullmatch(said)
    return datetime.fromtimestamp(float(found[1] or found[2]), UTC) if found else None


def _ago(said: str, now: datetime) -> datetime | None:
    """`5m`, `1h30m`, `2 hours ago`, `-15m`."""
    found = _AGO.fullmatch(said)
    if found is None:
        return None
    rest = found["signed"] or found["said"] or found["bare"]
    if any(word not in _WORDS for word in re.findall("[a-z]+", rest)):
        return None
    seconds, position = 0.0, 0
    while position < len(rest):
        part = _PART.match(rest, position)
        if part is None:
            return None
        seconds += float(part[1]) * _UNITS_S[part[2]]
        position = part.end()
    return now - timedelta(seconds=seconds)


def _day(said: str, now: datetime, local: Callable[[datetime], datetime]) -> datetime | None:
    """`now`, `today`, `yesterday`, `10:00`, `yesterday 10:00`, `10:00 yesterday`."""
    if said == "now":
        return now
    words = said.replace(" at ", " ").split()
    named = [word for word in words if word in ("today", "yesterday")]
    clocks = [_CLOCK.fullmatch(word) for word in words if word not in named]
    if not words or len(named) > 1 or len(clocks) > 1 or None in clocks:
        return None
    clock = clocks[0] if clocks else None
    at = time(int(clock[1]), int(clock[2]), int(clock[3] or 0)) if clock else time()
    today = now.date()
    if named:
        return local(datetime.combine(today - timedelta(days=named[0] == "yesterday"), at))
    found = local(datetime.combine(today, at))
    return found if found <= now else local(datetime.combine(today - timedelta(days=1), at))


def _iso(said: str, local: Callable[[datetime], datetime]) -> datetime | None:
    """ISO 8601 with a date; where it names no zone, `local` has one."""
    if not _ISO.fullmatch(said):
        return None
    found = datetime.fromisoformat(said.upper())
    return local(found) if found.tzinfo is None else found.astimezone(UTC)
