"""compose.yaml is the topology that lbctl makes itself, and old and new Compose take it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbctl.config import LEAVES
from lbctl.model import LABEL_PROJECT
from lbctl.runtime.containers import (
    BACKEND_IMAGE,
    ENGINE_SOCKET,
    LB_IMAGE,
    Names,
    Outside,
    backend_body,
    lb_body,
)

FILE = Path(__file__).parents[2] / "compose.yaml"
NAMES = Names("lbctl")
COMPOSE = shutil.which("docker-compose")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return document


def size_bytes(text: str) -> int:
    return int(text[:-1]) << {"k": 10, "m": 20, "g": 30}[text[-1]]


def as_engine(compose: dict[str, Any], service: dict[str, Any]) -> dict[str, Any]:
    """What Compose asks the engine for, in the engine's own words (those compared here)."""
    mounts = []
    for entry in service["volumes"]:
        source, target, *mode = entry.split(":")
        named = compose["volumes"].get(source)
        mount: dict[str, Any] = {"Type": "bind", "Source": source, "Target": target}
        if named:
            mount = {"Type": "volume", "Source": named["name"], "Target": target}
            mount["ReadOnly"] = mode == ["ro"]
        mounts.append(mount)
    host = {
        "NetworkMode": compose["networks"][service["networks"][0]]["name"],
        "RestartPolicy": {"Name": service["restart"]},
        "CapDrop": service["cap_drop"],
        "SecurityOpt": service["security_opt"],
        "ReadonlyRootfs": service["read_only"],
        "LogConfig": {
            "Type": service["logging"]["driver"],
            "Config": service["logging"]["options"],
        },
        "Mounts": mounts,
        "Memory": size_bytes(service["mem_limit"]),
        "PidsLimit": service["pids_limit"],
        "Tmpfs": dict(entry.split(":", 1) for entry in service["tmpfs"]),
    }
    if "cap_add" in service:
        host["CapAdd"] = service["cap_add"]
    return {
        "Image": service["image"],
        "Labels": service["labels"],
        "StopTimeout": int(service["stop_grace_period"].removesuffix("s")),
        "HostConfig": host,
    }


def test_has_no_key_that_one_of_the_two_refuses(compose: dict[str, Any]) -> None:
    # 1.29 refuses `name` and `additional_contexts`; v2 warns of `version`.
    assert {key for key in compose if not key.startswith("x-")} == {
        "services",
        "networks",
        "volumes",
    }
    for service in compose["services"].values():
        assert set(service["build"]) == {"context", "dockerfile"}
        assert (FILE.parent / service["build"]["dockerfile"]).is_file()


def test_objects_are_those_of_the_default_project(compose: dict[str, Any]) -> None:
    labels = {LABEL_PROJECT: "lbctl"}
    assert compose["networks"] == {"lbctl": {"name": NAMES.network, "labels": labels}}
    assert compose["volumes"] == {
        "token": {"name": NAMES.token_volume, "labels": labels},
        "state": {"name": NAMES.state_volume, "labels": labels},
    }
    services = compose["services"]
    assert services["lb"]["container_name"] == NAMES.lb
    assert services["lb"]["labels"] == NAMES.labels("lb")
    assert services["backend"]["labels"] == NAMES.labels("backend")
    for service in services.values():
        assert service["networks"] == ["lbctl"]


def test_a_backend_is_the_one_that_the_runtime_creates(compose: dict[str, Any]) -> None:
    backend = compose["services"]["backend"]
    assert as_engine(compose, backend) == backend_body(NAMES, BACKEND_IMAGE)
    assert "ports" not in backend
    assert "environment" not in backend


def test_the_lb_is_the_one_that_up_creates(compose: dict[str, Any]) -> None:
    created = lb_body(NAMES, LB_IMAGE, {}, Outside({}, ENGINE_SOCKET))
    # Settings and ports have tests of their own.
    del created["Env"], created["ExposedPorts"], created["HostConfig"]["PortBindings"]
    assert as_engine(compose, compose["services"]["lb"]) == created


def test_the_engine_is_the_lbs_alone(compose: dict[str, Any]) -> None:
    assert "docker.sock" not in str(compose["services"]["backend"])


def test_every_setting_of_a_running_lb_is_passed_on(compose: dict[str, Any]) -> None:
    # What has to do with addresses and images is said by the file itself.
    own = {"project", "runtime", "bind", "port", "admin_bind", "admin_port"}
    expected = {
        leaf.variable
        for leaf in LEAVES.values()
        if leaf.name not in own and leaf.section != "deploy"
    }
    environment = compose["services"]["lb"]["environment"]
    assert environment[0] == "LBCTL_PROJECT=lbctl"
    assert sorted(environment[1:]) == sorted(expected)


def test_the_admin_port_is_published_on_loopback_only(compose: dict[str, Any]) -> None:
    assert compose["services"]["lb"]["ports"] == [
        "${LBCTL_BIND:-0.0.0.0}:${LBCTL_PORT:-8080}:8080",
        "127.0.0.1:${LBCTL_ADMIN_PORT:-9900}:9900",
    ]


@pytest.mark.skipif(COMPOSE is None, reason="no docker-compose on this machine")
def test_compose_itself_takes_it() -> None:
    assert COMPOSE is not None
    done = subprocess.run(
        [COMPOSE, "-f", str(FILE), "config"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower()
    read = yaml.safe_load(done.stdout)
    assert json.dumps(read["services"]["lb"]["ports"]).count("9900") >= 1
