"""An engine's list read as instances, and the bodies that create containers."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.model import Backend, EngineHealth, Phase, Release
from lbctl.runtime.containers import (
    ADMIN_PORT,
    TRAFFIC_PORT,
    Lb,
    Names,
    backend_body,
    failed_its_checks,
    free_names,
    guard_body,
    instance_of,
    lb_body,
    pod_body,
)

NAMES = Names("shop")
# As Engine 20.10 shows it, shortened by what nothing reads.
RUNNING: dict[str, Any] = {
    "Id": "26dc0d589d8c97bbce6e077f83f5af38c5096ea72602c40c52d8df0ff5d90bb3",
    "Names": ["/shop-backend-1"],
    "Labels": {"lbctl.project": "shop", "lbctl.role": "backend"},
    "State": "running",
    "Status": "Up 2 seconds (healthy)",
    "NetworkSettings": {"Networks": {"shop": {"IPAddress": "172.18.0.5"}}},
}
LABELS = [
    "lbctl.port",
    "lbctl.admin-port",
    "lbctl.probe",
    "lbctl.weight",
    "lbctl.publish",
]


def container(labels: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(RUNNING) | changes
    changed["Labels"] |= labels or {}
    return changed


def problem_of(labels: dict[str, str]) -> str:
    instance = instance_of(container(labels), "shop")
    assert instance.backend is None
    return instance.problem


def test_a_healthy_backend() -> None:
    instance = instance_of(container(), "shop")
    assert instance.phase is Phase.RUNNING
    assert instance.health is EngineHealth.HEALTHY
    assert instance.problem == ""
    assert instance.backend == Backend(
        id=RUNNING["Id"], name="shop-backend-1", ip="172.18.0.5", port=8080, admin_port=9000
    )


@pytest.mark.parametrize(
    ("state", "status", "phase", "health"),
    [
        ("running", "Up 3 seconds", Phase.RUNNING, EngineHealth.NONE),
        ("running", "Up 3 seconds (health: starting)", Phase.RUNNING, EngineHealth.STARTING),
        ("running", "Up 2 hours (unhealthy)", Phase.RUNNING, EngineHealth.UNHEALTHY),
        ("paused", "Up 3 seconds (Paused)", Phase.PAUSED, EngineHealth.NONE),
        ("exited", "Exited (137) 2 seconds ago", Phase.EXITED, EngineHealth.NONE),
        ("created", "Created", Phase.EXITED, EngineHealth.NONE),
        ("restarting", "Restarting (1) 1 second ago", Phase.EXITED, EngineHealth.NONE),
        ("removing", "Removal In Progress", Phase.EXITED, EngineHealth.NONE),
        ("dead", "Dead", Phase.EXITED, EngineHealth.NONE),
    ],
)
def test_phase_and_health(state: str, status: str, phase: Phase, health: EngineHealth) -> None:
    instance = instance_of(container(State=state, Status=status), "shop")
    assert (instance.phase, instance.health) == (phase, health)
    assert (instance.backend is None) == (phase is Phase.EXITED)


@pytest.mark.parametrize(
    ("state", "status", "problem"),
    [
        ("exited", "Exited (137) 2 seconds ago", "exited, exit status 137"),
        ("restarting", "Restarting (1) 1 second ago", "restarting, exit status 1"),
        ("created", "Created", "does not run (created)"),
    ],
)
def test_why_it_does_not_run(state: str, status: str, problem: str) -> None:
    assert instance_of(container(State=state, Status=status), "shop").problem == problem


def test_a_container_in_health_word_only_in_its_name_is_not_healthy() -> None:
    instance = instance_of(container(Status="Up 1 second", Names=["/x (healthy)"]), "shop")
    assert instance.health is EngineHealth.NONE


@pytest.mark.parametrize(
    "networks",
    [
        {},
        None,
        {"other": {"IPAddress": "172.18.0.5"}},
        {"shop": {"IPAddress": ""}},
        {"shop": {"IPAddress": "fe80::1"}},
        {"shop": {"IPAddress": "172.18.0.05"}},
        {"shop": None},
    ],
)
def test_no_address_on_the_network(networks: Any) -> None:
    instance = instance_of(container(NetworkSettings={"Networks": networks}), "shop")
    assert instance.backend is None
    assert instance.problem == "has no address on network shop"


@pytest.mark.parametrize(
    "value",
    ["0", "65536", "-1", "+80", " 80", "80 ", "8_0", "0x50", "", "80.0", "٨٠", "080", "9" * 5000],
)
@pytest.mark.parametrize("label", ["lbctl.port", "lbctl.admin-port"])
def test_a_port_that_is_none(label: str, value: str) -> None:
    problem = problem_of({label: value})
    assert problem.startswith(f'label {label}="')
    assert problem.endswith('" is not a whole number from 1 to 65535')
    assert len(problem) < 160


@pytest.mark.parametrize("value", ["0", "1001", "1.5", "", "heavy"])
def test_a_weight_that_is_none(value: str) -> None:
    assert problem_of({"lbctl.weight": value}) == (
        f'label lbctl.weight="{value}" is not a whole number from 1 to 1000'
    )


@pytest.mark.parametrize(
    "labels",
    [
        {"lbctl.port": "9000"},
        {"lbctl.admin-port": "8080"},
        {"lbctl.port": "81", "lbctl.admin-port": "81"},
    ],
)
def test_one_port_for_both(labels: dict[str, str]) -> None:
    assert "are both" in problem_of(labels)


@pytest.mark.parametrize(
    "value",
    ["", "healthz", "/a b", "/a\r\nX: y", "/\x00", "/\x7f", "/é", "/a#b", "http://x/", "/" * 1025],
)
def test_a_probe_that_is_no_path(value: str) -> None:
    assert problem_of({"lbctl.probe": value}).startswith('label lbctl.probe="')


@pytest.mark.parametrize("value", ["/", "/up?deep=1", "/~a/%20", "/" * 1024])
def test_a_probe_that_is_a_path(value: str) -> None:
    backend = instance_of(container({"lbctl.probe": value}), "shop").backend
    assert backend is not None
    assert backend.probe_path == value


@pytest.mark.parametrize("value", ["", "no", "False", "0"])
def test_publish_is_true_or_false(value: str) -> None:
    assert "is not true or false" in problem_of({"lbctl.publish": value})
    backend = instance_of(container({"lbctl.publish": "false"}), "shop").backend
    assert backend is not None
    assert not backend.publish


@given(st.dictionaries(st.sampled_from(LABELS), st.text(max_size=300)), st.text(max_size=300))
def test_whatever_the_labels_say_it_is_a_backend_or_a_printable_problem(
    labels: dict[str, str], name: str
) -> None:
    instance = instance_of(container(labels, Names=[f"/{name}"]), "shop")
    assert (instance.backend is None) == bool(instance.problem)
    assert instance.problem.isprintable()
    assert instance.name.isprintable()
    assert instance.name
    assert len(instance.problem) < 250
    backend = instance.backend
    if backend is not None:
        assert 1 <= backend.port <= 65_535
        assert 1 <= backend.admin_port <= 65_535
        assert backend.port != backend.admin_port
        assert 1 <= backend.weight <= 1000
        assert backend.probe_path.startswith("/") or "lbctl.probe" not in labels
        assert backend.probe_path.isascii()
        assert " " not in backend.probe_path
        assert backend.probe_path.isprintable()


@given(st.integers(1, 65_535), st.integers(1, 65_535), st.integers(1, 1000))
def test_what_is_in_range_is_taken(port: int, admin_port: int, weight: int) -> None:
    labels = {
        "lbctl.port": str(port),
        "lbctl.admin-port": str(admin_port),
        "lbctl.weight": str(weight),
    }
    backend = instance_of(container(labels), "shop").backend
    if port == admin_port:
        assert backend is None
    else:
        assert backend is not None
        assert (backend.port, backend.admin_port, backend.weight) == (port, admin_port, weight)


def test_the_name_is_its_own_not_a_link_s() -> None:
    linked = container(Names=["/other/alias", "/shop-backend-1"])
    assert instance_of(linked, "shop").name == "shop-backend-1"
    assert instance_of(container(Names=[]), "shop").name == RUNNING["Id"][:12]


def test_free_names_fill_the_gaps() -> None:
    taken = {"shop-backend-2", "shop-backend-3", "shop-backend-x"}
    assert free_names(NAMES, taken, 3) == ["shop-backend-1", "shop-backend-4", "shop-backend-5"]
    assert free_names(NAMES, taken, 0) == []


def test_a_backend_s_body_holds_no_secret_and_no_privilege() -> None:
    body = backend_body(NAMES, Release(7, "lbctl-nginx:1"))
    host = body["HostConfig"]
    assert body["Image"] == "lbctl-nginx:1"
    assert body["Labels"]["lbctl.revision"] == "7"
    assert "Env" not in body
    assert "Cmd" not in body
    assert "CapAdd" not in host
    assert host["CapDrop"] == ["ALL"]
    assert [mount["ReadOnly"] for mount in host["Mounts"]] == [True]
    assert "docker.sock" not in json.dumps(body)


def test_the_pod_s_body_publishes_two_ports() -> None:
    ports = {TRAFFIC_PORT: ("", 80), ADMIN_PORT: ("127.0.0.1", 9901)}
    body = pod_body(NAMES, "lbctl-lb:1", ports)
    assert body["HostConfig"]["PortBindings"] == {
        "8080/tcp": [{"HostIp": "", "HostPort": "80"}],
        "9900/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9901"}],
    }
    assert "Mounts" not in body["HostConfig"]
    assert "CapAdd" not in body["HostConfig"]
    json.dumps(body)


def test_an_lb_s_body_joins_the_pod() -> None:
    settings = {"LBCTL_B": "2", "LBCTL_A": "1"}
    body = lb_body(NAMES, Lb("b", "lbctl-lb:1", "1234", settings))
    assert body["Env"] == ["LBCTL_A=1", "LBCTL_B=2"]
    assert body["Labels"]["lbctl.lb"] == "b"
    assert body["HostConfig"]["NetworkMode"] == "container:1234"
    assert "ExposedPorts" not in body
    assert "docker.sock" not in json.dumps(body)
    volumes = {mount["Source"]: mount["ReadOnly"] for mount in body["HostConfig"]["Mounts"]}
    assert volumes == {"shop_token": False, "shop_state": False, "shop_guard": True}


def test_the_guard_is_on_no_network() -> None:
    body = guard_body(NAMES, "lbctl-lb:1", "/run/d.sock", "web:2")
    host = body["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert body["Env"] == ["LBCTL_PROJECT=shop", "LBCTL_BACKEND_IMAGE=web:2"]
    sources = [(mount["Source"], mount.get("ReadOnly")) for mount in host["Mounts"]]
    assert sources == [("/run/d.sock", None), ("shop_guard", False), ("shop_state", True)]
    assert "CapAdd" not in host


def test_names_and_filters() -> None:
    assert (NAMES.network, NAMES.token_volume, NAMES.state_volume) == (
        "shop",
        "shop_token",
        "shop_state",
    )
    assert (NAMES.pod, NAMES.lb("a"), NAMES.guard) == ("shop-pod", "shop-lb-a", "shop-guard")
    assert NAMES.volumes == ("shop_token", "shop_state", "shop_guard")
    assert NAMES.filters() == {"label": ["lbctl.project=shop"]}
    assert NAMES.filters("lb") == {"label": ["lbctl.project=shop", "lbctl.role=lb"]}


@pytest.mark.parametrize(
    ("health", "check", "failed"),
    [
        ({"FailingStreak": 3}, {"Retries": 3}, True),
        ({"FailingStreak": 2}, {"Retries": 3}, False),
        ({"FailingStreak": 1}, {"Retries": 1}, True),
        ({"FailingStreak": 3}, {"Retries": 0}, True),
        ({"FailingStreak": 2}, {}, False),
        ({"FailingStreak": 0}, {"Retries": 1}, False),  # paused, and not checked since
        (None, None, False),
    ],
)
def test_unhealthy_is_who_failed_its_checks(health: Any, check: Any, failed: bool) -> None:
    facts = {"State": {"Health": health}, "Config": {"Healthcheck": check}}
    assert failed_its_checks(facts) is failed


@pytest.mark.parametrize(
    ("label", "revision"),
    [
        (None, 0), ("1", 1), ("27", 27), ("0", 0), ("-1", 0), ("+1", 0), ("1.0", 0), ("", 0),
        ("9" * 10, 0), ("\u0661", 0), ("1\n", 0),
    ],
)  # fmt: skip
def test_a_label_that_is_no_revision_makes_a_stranger(label: str | None, revision: int) -> None:
    labels = {} if label is None else {"lbctl.revision": label}
    instance = instance_of(container(labels, Image="web:2"), "shop")
    assert (instance.revision, instance.image) == (revision, "web:2")
    assert instance.backend is not None
