"""docs/monitoring is what Prometheus and Grafana take, and asks for what there is."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from lbctl.admin.metrics import LbCollector, registry
from lbctl.model import GuardCounts
from tests.support import monitoring
from tests.support.anchors import anchors
from tests.support.promtool import promtool
from tests.unit.admin.fakes import FakeFleet, FakeTraffic, synced_stats

ALERTS = monitoring.alerts()
BOARD = monitoring.dashboard()
PANELS: list[dict[str, Any]] = BOARD["panels"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
by_alert = pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
by_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def scrape() -> str:
    stats = synced_stats()
    stats.guard = GuardCounts()
    collector = LbCollector(FakeFleet(), FakeTraffic(), stats, {"version": "1"})
    return generate_latest(registry(collector)).decode()


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    said = promtool("check", "config", "prometheus.yml", where=monitoring.DIRECTORY)
    assert f"{len(ALERTS)} rules found" in said


def test_every_alert_fires_when_it_should_and_not_otherwise() -> None:
    promtool("test", "rules", "alerts.test.yml", where=monitoring.DIRECTORY)


def test_no_alert_is_without_a_test_of_both() -> None:
    text = (monitoring.DIRECTORY / "alerts.test.yml").read_text(encoding="utf-8")
    cases = [case for test in yaml.safe_load(text)["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    rests = {case["alertname"] for case in cases if not case["exp_alerts"]}
    names = {rule["alert"] for rule in ALERTS}
    assert fires == names
    assert rests == names


@by_alert
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert path == "docs/troubleshooting.md"
    assert anchor in anchors(monitoring.ROOT / path)


def test_what_they_ask_for_is_exposed() -> None:
    there = monitoring.exposed(scrape())
    asked = monitoring.metrics_in("\n".join(monitoring.expressions()))
    assert len(asked) > 20
    assert asked <= there


def test_the_labels_they_select_by_are_those_that_the_document_has() -> None:
    documented = dict(documented_metrics())
    for expression in monitoring.expressions():
        for name, labels in monitoring.labels_in(expression).items():
            assert labels <= documented[name], (name, expression)


def documented_metrics() -> list[tuple[str, set[str]]]:
    """Names and labels, of the table of docs/monitoring.md."""
    text = (monitoring.ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(lbctl_\w+)(?:\{([\w,]+)\})?` \|", text, re.MULTILINE)
    return [(name, set(filter(None, labels.split(",")))) for name, labels in rows]


def test_the_document_lists_every_metric_once() -> None:
    named = [name for name, _ in documented_metrics()]
    assert len(named) == len(set(named))
    assert set(named) == monitoring.exposed(scrape())


def test_the_document_lists_every_alert() -> None:
    text = (monitoring.ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(Lbctl\w+)`", text)) == {rule["alert"] for rule in ALERTS}


def test_a_metric_that_is_not_there_is_noticed() -> None:
    text = 'sum(rate(lbctl_nonsense_total{job="lbctl", colour="red"}[1m])) + lbctl_x_seconds_bucket'
    assert monitoring.metrics_in(text) == {"lbctl_nonsense_total", "lbctl_x_seconds"}
    assert monitoring.labels_in(text) == {"lbctl_nonsense_total": {"colour"}}


def test_the_dashboard_has_what_grafana_needs_of_one() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", BOARD["uid"])
    assert BOARD["title"]
    assert BOARD["schemaVersion"] >= 36
    variables = {one["name"]: one for one in BOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("job", "instance"):
        assert variables[name]["datasource"] == SOURCE
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))


@by_panel
def test_a_panel_asks_the_chosen_source_about_the_chosen_lbs(panel: dict[str, Any]) -> None:
    assert panel["type"] in ("row", "stat", "timeseries", "heatmap")
    place = panel["gridPos"]
    assert place["x"] + place["w"] <= 24
    if panel["type"] == "row":
        return
    assert panel["description"]
    assert panel["datasource"] == SOURCE
    assert panel["targets"]
    refs = [target["refId"] for target in panel["targets"]]
    assert len(refs) == len(set(refs))
    for target in panel["targets"]:
        assert target["datasource"] == SOURCE
        selectors = re.findall(r"lbctl_\w+\{([^}]*)\}", target["expr"])
        assert len(selectors) == len(re.findall(r"\blbctl_\w+", target["expr"]))
        for selector in selectors:
            assert 'job=~"$job", instance=~"$instance"' in selector


def test_no_panel_covers_another() -> None:
    for one, other in combinations(PANELS, 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (one["title"], other["title"])


def test_prometheus_itself_parses_what_the_dashboard_asks(tmp_path: Any) -> None:
    # promtool checks expressions as rules; Grafana's variables are not PromQL.
    rules: list[dict[str, str]] = []
    for expression in monitoring.expressions()[len(ALERTS) :]:
        if not expression.startswith("label_values("):
            plain = expression.replace("$__rate_interval", "1m")
            rules.append({"record": f"asked:{len(rules)}", "expr": plain})
    assert len(rules) > 30
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", str(file))
