from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from lbctl.cli.client import (
    BackendRow,
    ChecksRow,
    HealingRow,
    HistoryRow,
    RolloutRow,
    Status,
    TokensRow,
)
from lbctl.cli.tables import age, local_time, status_view

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
        leader="", settings={}, tokens=TokensRow(rotating=False, changed_at=None),
        runtime_problem="", rollout=None, healing=HealingRow(state="idle", message=""),
        backends=list(backends),
    )  # fmt: skip


def row(**changes: object) -> BackendRow:
    base = BackendRow(
        id="1", name="shop-backend-1", ip="127.1.0.1", port=8080, weight=1, state="up", reason="",
        since="2026-11-22T09:58:00.000Z", in_flight=2, requests_per_second=1234.56,
        error_ratio=0.0, p50_ms=0.5, p99_ms=1.25,
        published_generation=3, last_check="passed", cause="well",
        checks=ChecksRow(passed=True, in_a_row=9), publish=True, revision=1, ejection=None,
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


def test_nothing_is_said_of_healing_that_is_idle_and_of_a_rollout_that_went_well() -> None:
    view = status(row())
    view["rollout"] = rollout_row(state="done")
    assert "healing" not in shown(view)
    assert "rollout" not in shown(view)


def test_what_goes_on_stands_under_the_headline() -> None:
    view = status(row())
    view["rollout"] = rollout_row(state="rolled back", message="b-4 is down: why\n    its log")
    view["healing"] = HealingRow(state="gave up", message="5 in a row\nlbctl scale")
    assert shown(view).splitlines()[1:6] == [
        "rollout 2 to web:2: rolled back",
        "  b-4 is down: why",
        "      its log",
        "healing: gave up, 5 in a row",
        "  lbctl scale",
    ]


def test_a_runtime_that_tells_nothing_stands_under_the_headline() -> None:
    view = status(row())
    view["runtime_problem"] = "no guard answers\x1b"
    assert shown(view).splitlines()[1] == "who comes and goes is not seen: no guard answers?"


def test_a_history_that_is_not_written_is_said() -> None:
    view = status(row())
    view["history"] = HistoryRow(state="failing", message="disk\x1b full", lost=0, events=3)
    assert shown(view).splitlines()[1] == "history: not written, disk? full"
    view["history"]["state"] = "kept"
    assert "history" not in shown(view)


@pytest.mark.parametrize("text", ["", "soon", "0001-01-01T00:00:00+23:00"])
def test_a_local_time_that_is_none(text: str) -> None:
    assert local_time(text) == "?"


def rollout_row(**changes: object) -> RolloutRow:
    base = RolloutRow(revision=2, image="web:2", state="running", replaced=1, total=3, message="")
    return RolloutRow(**{**base, **changes})  # type: ignore[typeddict-item]
