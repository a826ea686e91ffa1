"""docs/monitoring: the alerts and the dashboard, and the metrics that they ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "docs" / "monitoring"

_PARTS = ("_bucket", "_sum", "_count")  # of a histogram


def alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load((DIRECTORY / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DIRECTORY / "grafana-dashboard.json").read_text())
    return document


def expressions() -> list[str]:
    """Everything that the alerts, the dashboard and its variables ask Prometheus for."""
    board = dashboard()
    asked = [rule["expr"] for rule in alerts()]
    asked += [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    asked += [
        one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"
    ]
    return asked + [one["target"]["expr"] for one in board["annotations"]["list"]]


def metrics_in(text: str) -> set[str]:
    """The families that it names; of a histogram without _bucket, _sum, _count."""
    names = set(re.findall(r"\blbctl_[a-z0-9_]+\b", text))
    return {family_of(name) for name in names}


def family_of(name: str) -> str:
    for part in _PARTS:
        if name.endswith(f"seconds{part}"):
            return name.removesuffix(part)
    return name


def exposed(scraped: str) -> set[str]:
    """The families of a scrape in Prometheus' text format, those without a sample included."""
    return set(re.findall(r"^# TYPE (\S+) ", scraped, re.MULTILINE))


def labels_in(expression: str) -> dict[str, set[str]]:
    """By metric: the labels that its selector names."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"\b(lbctl_[a-z0-9_]+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        found.setdefault(family_of(name), set()).update(labels - {"job", "instance"})
    return found
