from __future__ import annotations

from lbctl.admin.overview import Overview, in_rotation
from lbctl.model import HistoryState, HistoryStatus, State
from tests.unit.admin.fakes import (
    FakeFleet,
    FakeScaler,
    FakeTraffic,
    backend_status,
    synced_stats,
    traffic,
)
from tests.unit.admin.test_api import FACTS


def test_the_view_is_all_that_is_known() -> None:
    fleet = FakeFleet(backend_status("b-1"), backend_status("b-2", state=State.DOWN))
    counted = FakeTraffic(id_b_1=traffic("b-1", in_flight=2), id_gone=traffic("b-0", in_flight=9))
    stats = synced_stats()
    stats.history = HistoryStatus(HistoryState.FAILING, "the disk is full")
    view = Overview(fleet, counted, FakeScaler(), stats, lambda: FACTS).view()
    summary = view["summary"]
    assert (summary["in_rotation"], summary["known"]) == (1, 2)
    assert summary["in_flight"] == 2  # of those that are known
    assert summary["history"]["message"] == "the disk is full"
    assert summary["requests_per_second"] is None  # not sampled yet
    assert [row["id"] for row in view["backends"]] == ["id-b-1", "id-b-2"]
    assert [one["role"] for one in view["processes"]] == ["supervisor", "worker"]


def test_samples_are_measured_against_those_before() -> None:
    counted = FakeTraffic(id_b_1=traffic("b-1", ok=10))
    overview = Overview(FakeFleet(), counted, FakeScaler(), synced_stats(), lambda: FACTS)
    overview.sample()
    assert overview.series.present["requests_per_second"] == 0  # ten of an unknown time
    counted.backends["id-b-1"] = traffic("b-1", ok=40)
    overview.sample()
    assert (overview.series.present["requests_per_second"] or 0) > 0
    assert overview.series.present["error_ratio"] == 0


def test_in_rotation_are_those_that_are_up() -> None:
    assert in_rotation([backend_status(state.value, state=state) for state in State]) == 1
