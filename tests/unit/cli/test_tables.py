from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from lbctl.cli.client import BackendRow, Status
from lbctl.cli.tables import age, status_view

NOW = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (59.4, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86_399, "23h"),
        (86_400, "1d"), (-5, "0s"),
    ],
)  # fmt: skip
def test_age(seconds: float, text: str) -> None:
    then = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    assert age(then, NOW) == text


@pytest.mark.parametrize("since", ["", "yesterday", "2026-11-22T10:00:00"])
def test_a_time_that_is_none(since: str) -> None:
    assert age(since, NOW) == "?"


def status(*backends: BackendRow) -> Status:
    return Status(
        project="shop", runtime="local", version="1", address="127.0.0.1:8080",
        admin_address="127.0.0.1:9900", replicas=None, generation=3,
        updated_at="2026-11-22T09:00:00.000Z", in_rotation=len(backends), processes=[],
        backends=list(backends),
    )  # fmt: skip


def row(**changes: object) -> BackendRow:
    base = BackendRow(
        id="1", name="shop-backend-1", ip="127.1.0.1", port=8080, weight=1, state="up", reason="",
        since="2026-11-22T09:58:00.000Z", in_flight=2, requests_per_second=1234.56, p99_ms=1.25,
        published_generation=3, last_check="passed",
    )  # fmt: skip
    return BackendRow(**{**base, **changes})  # type: ignore[typeddict-item]


def shown(view: Status, width: int = 80, *, colour: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=width, markup=False, color_system="standard" if colour else None
    )
    console.print(status_view(view, "http://127.0.0.1:8080", NOW))
    return out.getvalue()


def test_a_row_fits_a_narrow_terminal() -> None:
    text = shown(status(row()))
    assert all(len(line) <= 80 for line in text.splitlines())
    (line,) = [line for line in text.splitlines() if line.startswith("shop-backend-1")]
    assert line.split() == ["shop-backend-1", "127.1.0.1", "up", "2m", "2", "1234.6", "1.2", "3"]


def test_without_a_wish_there_is_no_of() -> None:
    assert "1 in rotation, generation 3" in shown(status(row()))


def test_an_idle_backend_has_a_dash_for_p99() -> None:
    (line,) = [
        line for line in shown(status(row(p99_ms=None))).splitlines() if "shop-backend-1" in line
    ]
    assert " - " in line


def test_colours_are_for_terminals() -> None:
    assert "\x1b[" in shown(status(row()), colour=True)
    assert "\x1b[" not in shown(status(row()))
