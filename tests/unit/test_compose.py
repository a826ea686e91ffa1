"""compose.yaml is the topology that lbctl makes itself, and old and new Compose take it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbctl.config import LEAVES
from lbctl.model import LABEL_PROJECT, LABEL_REVISION, Release
from lbctl.runtime.containers import (
    BACKEND_IMAGE,
    ENGINE_SOCKET,
    LB_IMAGE,
    Lb,
    Names,
    backend_body,
    guard_body,
    lb_body,
    pod_body,
)

FILE = Path(__file__).parents[2] / "compose.yaml"
NAMES = Names("lbctl")
COMPOSE = shutil.which("docker-compose")
MONITORING = {"prometheus"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return document


def size_bytes(text: str) -> int:
    return int(text[:-1]) << {"k": 10, "m": 20, "g": 30}[text[-1]]


def as_engine(compose: dict[str, Any], service: dict[str, Any]) -> dict[str, Any]:
    """What Compose asks the engine for, in the engine's own words (those compared here)."""
    mounts = []
    for entry in service.get("volumes", ()):
        source, target, *mode = entry.split(":")
        named = compose["volumes"].get(source)
        mount: dict[str, Any] = {"Type": "bind", "Source": source, "Target": target}
        if named:
            mount = {"Type": "volume", "Source": named["name"], "Target": target}
            mount["ReadOnly"] = mode == ["ro"]
        mounts.append(mount)
    network = service.get("network_mode", "").replace("service:", "container:")
    host: dict[str, Any] = {
        "NetworkMode": network or compose["networks"][service["networks"][0]]["name"],
        "RestartPolicy": {"Name": service["restart"]},
        "CapDrop": service["cap_drop"],
        "SecurityOpt": service["security_opt"],
        "ReadonlyRootfs": service["read_only"],
        "LogConfig": {
            "Type": service["logging"]["driver"],
            "Config": service["logging"]["options"],
        },
        "Memory": size_bytes(service["mem_limit"]),
        "PidsLimit": service["pids_limit"],
    }
    if mounts:
        host["Mounts"] = mounts
    if "tmpfs" in service:
        host["Tmpfs"] = dict(entry.split(":", 1) for entry in service["tmpfs"])
    for key, name in (("cap_add", "CapAdd"), ("sysctls", "Sysctls")):
        if key in service:
            host[name] = service[key]
    asked = {"Image": service["image"], "Labels": service["labels"], "HostConfig": host}
    if "stop_grace_period" in service:
        asked["StopTimeout"] = int(service["stop_grace_period"].removesuffix("s"))
    if "healthcheck" in service:
        assert service["healthcheck"] == {"disable": True}
        asked["Healthcheck"] = {"Test": ["NONE"]}
    for key, name in (
        ("entrypoint", "Entrypoint"),
        ("command", "Cmd"),
        ("user", "User"),
        ("stop_signal", "StopSignal"),
    ):
        if key in service:
            asked[name] = service[key]
    return asked


def test_has_no_key_that_one_of_the_two_refuses(compose: dict[str, Any]) -> None:
    # 1.29 refuses `name` and `additional_contexts`; v2 warns of `version`.
    assert {key for key in compose if not key.startswith("x-")} == {
        "services",
        "networks",
        "volumes",
    }
    for name, service in compose["services"].items():
        if name not in MONITORING:
            assert set(service["build"]) == {"context", "dockerfile"}
            assert (FILE.parent / service["build"]["dockerfile"]).is_file()


def test_objects_are_those_of_the_default_project(compose: dict[str, Any]) -> None:
    labels = {LABEL_PROJECT: "lbctl"}
    assert compose["networks"] == {"lbctl": {"name": NAMES.network, "labels": labels}}
    assert compose["volumes"] == {
        "token": {"name": NAMES.token_volume, "labels": labels},
        "state": {"name": NAMES.state_volume, "labels": labels},
        "guard": {"name": NAMES.guard_volume, "labels": labels},
        "prometheus": {"name": "lbctl_prometheus"},
    }
    services = compose["services"]
    for service, name in (
        ("pod", NAMES.pod),
        ("lb-a", NAMES.lb("a")),
        ("lb-b", NAMES.lb("b")),
        ("guard", NAMES.guard),
    ):
        assert services[service]["container_name"] == name
    for service in ("pod", "backend"):
        assert services[service]["networks"] == ["lbctl"]


def test_a_backend_is_the_one_that_the_runtime_creates(compose: dict[str, Any]) -> None:
    backend = compose["services"]["backend"]
    created = backend_body(NAMES, Release(image=BACKEND_IMAGE))
    del created["Labels"][LABEL_REVISION]  # lbctl has not started it, and will not replace it
    assert as_engine(compose, backend) == created
    assert "ports" not in backend
    assert "environment" not in backend


@pytest.mark.parametrize("name", ["a", "b"])
def test_an_lb_is_the_one_that_up_creates(compose: dict[str, Any], name: str) -> None:
    created = lb_body(NAMES, Lb(name, LB_IMAGE, "pod", {}))
    del created["Env"]  # it has a test of its own
    assert as_engine(compose, compose["services"][f"lb-{name}"]) == created


def test_the_pod_is_the_one_that_up_creates(compose: dict[str, Any]) -> None:
    created = pod_body(NAMES, LB_IMAGE, {})
    # Ports have a test of their own.
    del created["ExposedPorts"], created["HostConfig"]["PortBindings"]
    assert as_engine(compose, compose["services"]["pod"]) == created


def test_the_guard_is_the_one_that_up_creates(compose: dict[str, Any]) -> None:
    guard = compose["services"]["guard"]
    created = guard_body(NAMES, LB_IMAGE, ENGINE_SOCKET, BACKEND_IMAGE)
    assert created.pop("Env") == guard["environment"]
    assert as_engine(compose, guard) == created


def test_only_the_guard_has_the_engine(compose: dict[str, Any]) -> None:
    having = [name for name, one in compose["services"].items() if "docker.sock" in str(one)]
    assert having == ["guard"]


def test_the_guard_comes_before_the_lbs(compose: dict[str, Any]) -> None:
    for name in ("lb-a", "lb-b"):
        assert compose["services"][name]["depends_on"] == ["pod", "guard"]


def test_every_setting_of_a_running_lb_is_passed_on(compose: dict[str, Any]) -> None:
    # What has to do with addresses and images is said by the file itself.
    own = {"project", "runtime", "bind", "port", "admin_bind", "admin_port"}
    own |= {"tls_cert", "tls_key", "tls_dir", "tls_port"}
    expected = {
        leaf.variable
        for leaf in LEAVES.values()
        if leaf.name not in own and leaf.section != "deploy"
    }
    environment = compose["services"]["lb-b"]["environment"]
    assert environment == compose["services"]["lb-a"]["environment"]
    assert environment[0] == "LBCTL_PROJECT=lbctl"
    assert sorted(environment[1:]) == sorted(expected)


def test_the_admin_port_is_published_on_loopback_only(compose: dict[str, Any]) -> None:
    assert compose["services"]["pod"]["ports"] == [
        "${LBCTL_BIND:-0.0.0.0}:${LBCTL_PORT:-8080}:8080",
        "127.0.0.1:${LBCTL_ADMIN_PORT:-9900}:9900",
    ]


def test_what_is_not_ours_is_asked_for_pinned_and_seen_from_this_machine_alone(
    compose: dict[str, Any],
) -> None:
    theirs = {name: one for name, one in compose["services"].items() if "build" not in one}
    assert set(theirs) == MONITORING
    for service in theirs.values():
        assert service["profiles"] == ["monitoring"]
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?[0-9]+[.][0-9]+[.][0-9]+", service["image"])
        assert service["network_mode"] == "host"
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        for mount in service["volumes"]:
            source, _, mode = mount.partition(":")
            if source.startswith("."):
                assert (FILE.parent / source).is_file(), source
                assert mode.endswith(":ro")
    assert "--web.listen-address=127.0.0.1:9090" in theirs["prometheus"]["command"]


@pytest.mark.skipif(COMPOSE is None, reason="no docker-compose on this machine")
@pytest.mark.parametrize("profile", [[], ["--profile", "monitoring"]])
def test_compose_itself_takes_it(profile: list[str]) -> None:
    assert COMPOSE is not None
    argv = [COMPOSE, "-f", str(FILE), *profile, "config"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower()
    read = yaml.safe_load(done.stdout)
    # Old Compose shows all of them here, and starts those of the profile.
    assert MONITORING.issubset(read["services"]) or not profile
    assert json.dumps(read["services"]["pod"]["ports"]).count("9900") >= 1
