"""The alerts and the dashboard ask for what a running stack exposes."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import monitoring
from tests.support.cli import Cli, get
from tests.support.deadlines import until
from tests.support.promtool import promtool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.nginx

ON_DOCKER = {"lbctl_guard_requests_total", "lbctl_guard_refused_total"}
"""There is no guard here; tests/unit/docs has them exposed."""


@pytest.fixture(scope="module")
def scraped() -> Iterator[str]:
    """Of a stack that has served and refused."""
    cli = Cli(f"t{secrets.token_hex(4)}", "local", settings={"LBCTL_WORKERS": "2"})
    try:
        cli.ok("up", "--replicas", "2")
        for _ in range(20):
            get(cli.url)
        with pytest.raises(OSError, match="414"):
            get(f"{cli.url}/?{'x' * 40_000}")
        until(lambda: cli.metric("lbctl_requests_total") >= 20)
        until(lambda: "lbctl_refused_total{" in get(f"{cli.admin_url}/metrics"))
        yield get(f"{cli.admin_url}/metrics")
    finally:
        cli.clean()


def test_every_metric_that_is_asked_for_is_there(scraped: str) -> None:
    asked = monitoring.metrics_in("\n".join(monitoring.expressions()))
    assert len(asked) > 20
    assert asked - ON_DOCKER <= monitoring.exposed(scraped)


def test_and_so_is_every_label(scraped: str) -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scraped):
        for sample in family.samples:
            labels.setdefault(monitoring.family_of(sample.name), set()).update(sample.labels)
    for expression in monitoring.expressions():
        for name, selected in monitoring.labels_in(expression).items():
            if name in labels:
                assert selected <= labels[name], (name, expression)


def test_the_dashboard_s_variables_find_the_job(scraped: str) -> None:
    assert len(re.findall(r"^lbctl_build_info\{", scraped, re.MULTILINE)) == 1


def test_promtool_finds_nothing_in_it(scraped: str) -> None:
    assert promtool("check", "metrics", given=scraped) == ""
