"""The status document, read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lbctl.errors import OperationError
from lbctl.verify.view import Process, View, clients_of, parse_view, retries_of, trouble


def document(**changes: Any) -> dict[str, Any]:
    row = {"port": 8080, "state": "up", "reason": "", "published_generation": 7}
    return {
        "generation": 7,
        "replicas": 2,
        "leader": "",
        "rollout": None,
        "settings": {},
        "processes": [
            {"role": "controller", "name": "c", "lb": "", "pid": 2, "started_at": "then"},
            {"role": "worker", "name": "w", "lb": "", "pid": 3, "started_at": "then"},
        ],
        "backends": [
            {"id": "b", "name": "web-b", "ip": "127.0.0.10"} | row,
            {"id": "a", "name": "web-a", "ip": "127.0.0.9"} | row,
        ],
    } | changes


def view(**changes: Any) -> View:
    return parse_view(json.dumps(document(**changes)))


def test_a_status_of_one_lb_without_rollouts() -> None:
    seen = view()
    assert seen.expected_list == b"127.0.0.9\n127.0.0.10\n"
    assert seen.names == {"127.0.0.9": "web-a", "127.0.0.10": "web-b"}
    assert (seen.lbs, seen.leader, seen.rollout) == (("",), "", None)
    assert trouble(seen) == ""


def test_a_status_of_two_lbs_and_a_rollout() -> None:
    processes = [
        {"role": role, "name": role, "pid": 1, "lb": lb, "started_at": "then"}
        for lb in "ba"
        for role in ("controller", "worker")
    ]
    rollout = {"revision": 2, "image": "", "state": "rolling back", "message": "no\x1b[1m"}
    seen = view(processes=processes, leader="a", rollout=rollout)
    assert (seen.lbs, seen.leader) == (("a", "b"), "a")
    assert len(seen.of_role("worker")) == 2
    assert seen.rollout is not None
    assert seen.rollout.under_way
    assert seen.rollout.message == "no?[1m"
    assert trouble(seen) == "a rollout is under way"


def test_who_is_out_and_why() -> None:
    rows = document()["backends"]
    rows[0] |= {"state": "draining", "reason": "by hand"}
    assert trouble(view(backends=rows)) == (
        "1 of 2 backends are out of rotation: web-b is draining (by hand)"
    )


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", json.dumps(document(backends=[{}])), json.dumps(document(rollout=1))],
)
def test_what_is_no_status(text: str) -> None:
    with pytest.raises(OperationError, match="status"):
        parse_view(text)


def test_retries_are_summed_over_backends_and_reasons() -> None:
    metrics = (
        "# HELP lbctl_retries_total Requests sent again\n"
        'lbctl_retries_total{backend="a",reason="connect"} 3.0\n'
        'lbctl_retries_total{backend="b",reason="stale"} 1e1\n'
        "lbctl_other_total 7.0\n"
    )
    assert retries_of(metrics) == 13
    assert retries_of("") == 0


def test_connections_are_those_of_the_workers_that_are_meant() -> None:
    metrics = (
        'lbctl_worker_connections{worker="a/worker-0"} 33.0\n'
        'lbctl_worker_connections{worker="a/worker-1"} 30.0\n'
        'lbctl_worker_connections{worker="b/worker-0"} 1.0\n'
    )
    workers = [Process("worker", f"a/worker-{number}", 7, "a") for number in (0, 1)]
    assert clients_of(metrics, workers) == 63
    assert clients_of(metrics, workers[:1]) == 33
    assert clients_of("", workers) == 0
