from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks.compare import balancer, entries
from benchmarks.compare.processes import Cores, Place, Plan

from lbctl.errors import MachineError

PLACE = Place(
    Path("/scratch/lbctl"), "127.77.2.2", ["127.77.1.1:8080"], Path("/tools/bin"), Cores(1, (0,))
)


def test_names_are_different_and_references_are_there() -> None:
    every = entries.entries(sys.executable, container=True)
    names = [entry.name for entry in every]
    assert len(set(names)) == len(names)
    assert {entry.reference for entry in every} <= set(names)


def test_a_log_is_compared_with_a_log() -> None:
    references = {one.name: one.reference for one in entries.entries("python", container=False)}
    assert references["lbctl-log"] == "haproxy-log"
    assert references["lbctl"] == "haproxy"


def test_the_longest_path_is_replaced_first() -> None:
    places = {"/a": "A", "/a/b": "B", "": "nothing"}
    assert entries.placeheld("/a/b/c /a/c", places) == "B/c A/c"


@pytest.mark.parametrize("logs", [False, True])
def test_lbctls_command_line_can_be_published(logs: bool) -> None:
    plan = balancer.given(PLACE, sys.executable, logs=logs)
    places = entries.placeholders(PLACE, sys.executable)
    line = entries.command_line(plan, PLACE, places)
    assert "LBCTL_WORKERS=1" in line
    assert f"LBCTL_ACCESS_LOG={'json' if logs else 'off'}" in line
    assert line.endswith("taskset -c 1 PYTHON -m benchmarks.given 127.77.1.1:8080")
    assert "LBCTL_STATE_DIR=DIR/state" in line
    assert str(balancer.PROJECT) not in line
    assert "/site-packages" not in line


def test_no_proxy_has_no_command_line() -> None:
    assert entries.command_line(Plan(()), PLACE, {}) == ""


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12-1+deb12u4"),
        ("envoy  version: 0b3d1c9/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
        ("v2.11.7 h1:XYZ=", "2.11.7"),
        ("who knows", ""),
    ],
)
def test_a_version_is_found_in_what_a_program_says(said: str, found: str) -> None:
    assert entries.version("echo", [said], {"PATH": "/usr/bin:/bin"}) == found


def test_a_program_that_is_not_there_has_no_version() -> None:
    assert entries.version("/nowhere/program", ["-v"], {}) == ""


def test_the_container_of_lbctl_has_the_rights_of_the_products(tmp_path: Path) -> None:
    (tmp_path / "docker").touch(mode=0o755)
    place = Place(tmp_path / "home", "127.77.2.2", ["127.77.1.1:8080"], tmp_path, Cores(1, (0,)))
    argv = balancer.contained(place).argv
    line = " ".join(argv)
    assert "--network host --cpuset-cpus 1" in line
    assert "--cap-drop ALL" in line
    assert line.endswith("--entrypoint python3 lbctl-lb -m benchmarks.given 127.77.1.1:8080")


def test_without_an_engine_that_is_what_is_said(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'cannot connect' >&2\nexit 1\n")
    docker.chmod(0o755)
    place = Place(tmp_path / "home", "127.77.2.2", [], tmp_path, Cores(1, (0,)))
    with (
        pytest.raises(MachineError, match="no Docker engine answers"),
        balancer.serving_contained(balancer.contained(place), place),
    ):
        pass
