from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.when import moment, utc
from lbctl.errors import UsageError

EAST = timezone(timedelta(hours=2))
NOW = datetime(2026, 11, 27, 12, 30, tzinfo=EAST)


def here(naive: datetime) -> datetime:
    return naive.replace(tzinfo=EAST)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("now", "2026-11-27T12:30:00+02:00"),
        ("10:00", "2026-11-27T10:00:00+02:00"),
        ("9:05:07", "2026-11-27T09:05:07+02:00"),
        ("12:30", "2026-11-27T12:30:00+02:00"),
        ("13:00", "2026-11-26T13:00:00+02:00"),  # the last time that it was so
        ("today", "2026-11-27T00:00:00+02:00"),
        ("yesterday", "2026-11-26T00:00:00+02:00"),
        ("yesterday 10:00", "2026-11-26T10:00:00+02:00"),
        ("yesterday at 10:00", "2026-11-26T10:00:00+02:00"),
        ("10:00 yesterday", "2026-11-26T10:00:00+02:00"),
        ("  Yesterday 10:00 ", "2026-11-26T10:00:00+02:00"),
        ("5m", "2026-11-27T12:25:00+02:00"),
        ("-15m", "2026-11-27T12:15:00+02:00"),
        ("- 15m", "2026-11-27T12:15:00+02:00"),
        ("2h ago", "2026-11-27T10:30:00+02:00"),
        ("2 hours ago", "2026-11-27T10:30:00+02:00"),
        ("1h30m", "2026-11-27T11:00:00+02:00"),
        ("1h 30 min", "2026-11-27T11:00:00+02:00"),
        ("1.5h", "2026-11-27T11:00:00+02:00"),
        ("90s", "2026-11-27T12:28:30+02:00"),
        ("3d", "2026-11-24T12:30:00+02:00"),
        ("1 week", "2026-11-20T12:30:00+02:00"),
        ("1764237870", "2025-11-27T10:04:30+00:00"),
        ("1764237870.25", "2025-11-27T10:04:30.25+00:00"),
        ("@0", "1970-01-01T00:00:00+00:00"),
        ("@1764237870", "2025-11-27T10:04:30+00:00"),
        ("2026-11-26", "2026-11-26T00:00:00+02:00"),
        ("2026-11-26 10:00", "2026-11-26T10:00:00+02:00"),
        ("2026-11-26T10:00", "2026-11-26T10:00:00+02:00"),
        ("2026-11-26T10:00:00.123Z", "2026-11-26T10:00:00.123+00:00"),
        ("2026-11-26t10:00:00z", "2026-11-26T10:00:00+00:00"),
        ("2026-11-26T10:00-05:00", "2026-11-26T15:00:00+00:00"),
        ("2027-01-01", "2027-01-01T00:00:00+02:00"),
    ],
)
def test_what_people_write(text: str, means: str) -> None:
    assert moment(text, NOW, here) == datetime.fromisoformat(means)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "x", "tomorrow", "10", "24:00", "10:60", "10:00:60", "1:2:3:4", "10:00 11:00",
        "yesterday today", "yesterday noon", "5", "5x", "5 moons", "m", "ago", "-", "--5m",
        "5m ago ago", "5m5", "1e3s", "2026-13-01", "2026-02-30", "2026-11-26T25:00", "2026-W48-1",
        "26-11-2026", "2026-11-26x10:00", "@", "@x", "@-5", "99999999999999", "999999999w",
        "\u0665m", "2026-11-26T10:00\nZ", "9" * 100,
        "10:00; rm -rf /", "\x1b[31m",
    ],
)  # fmt: skip
def test_nonsense_is_one_clear_line(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        moment(text, NOW, here)
    said = str(refused.value)
    assert "is no time: 10:00, 'yesterday 10:00', 5m" in said
    assert said.isprintable()
    assert len(said) < 160


def test_those_without_a_zone_of_their_own() -> None:
    assert moment("2026-11-26 10:00", NOW, utc) == datetime(2026, 11, 26, 10, tzinfo=UTC)


@given(st.text(max_size=80) | st.from_regex(r"[@-]?[0-9:.T -]{0,20}[smhdwZ]?( ago)?"))
def test_whatever_is_written_means_a_moment_or_nothing(text: str) -> None:
    try:
        found = moment(text, NOW, here)
    except UsageError:
        return
    assert found.tzinfo is not None
