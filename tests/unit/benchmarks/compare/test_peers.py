from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from benchmarks.compare import peers
from benchmarks.compare.processes import Cores, Place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.compare.processes import Plan

BACKENDS = ["127.77.1.1:8080", "127.77.1.2:8080", "127.77.1.3:8080"]
ALL = [peers.haproxy, peers.nginx, peers.envoy, peers.traefik, peers.caddy, peers.proxy_py]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With a program for every peer."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("haproxy", "nginx", "envoy", "traefik", "caddy", "proxy"):
        (tools / name).touch(mode=0o755)
    return Place(tmp_path / "home", "127.77.2.9", BACKENDS, tools, Cores(1, (0,)))


@pytest.mark.parametrize("plan", ALL)
def test_every_peer_has_all_backends_and_listens_where_it_is_asked(
    plan: Callable[[Place], Plan], place: Place
) -> None:
    made = plan(place)
    said = " ".join([*made.argv, *made.files.values()])
    for needed in (*BACKENDS, place.address, str(place.port)):
        host, _, port = needed.rpartition(":")
        assert needed in said or f"address: {host}, port_value: {port}" in said


@pytest.mark.parametrize("plan", ALL)
def test_every_peer_has_one_thread(plan: Callable[[Place], Plan], place: Place) -> None:
    made = plan(place)
    said = " ".join([*made.argv, *made.files.values(), *(f"{k}={v}" for k, v in made.env.items())])
    ways = ("nbthread 1", "worker_processes 1;", "--concurrency 1", "GOMAXPROCS=1",
            "--num-acceptors 1")  # fmt: skip
    assert any(way in said for way in ways)


@pytest.mark.parametrize("plan", ALL)
def test_no_configuration_names_a_path_of_this_machine(
    plan: Callable[[Place], Plan], place: Place
) -> None:
    for text in plan(place).files.values():
        assert str(place.directory.parent) not in text


def test_haproxy_logs_requests_to_a_pipe_or_not_at_all(place: Place) -> None:
    quiet, logging = peers.haproxy(place), peers.haproxy(place, logs=True)
    assert "httplog" not in quiet.files["haproxy.cfg"]
    assert "stdout" not in quiet.files["haproxy.cfg"]
    assert not quiet.log_to_pipe
    assert "option httplog" in logging.files["haproxy.cfg"]
    assert logging.log_to_pipe
    for made in (quiet, logging):
        assert "option forwardfor" in made.files["haproxy.cfg"]
        assert "http-reuse always" in made.files["haproxy.cfg"]


def test_envoys_document_can_be_read(place: Place) -> None:
    document = yaml.safe_load(peers.envoy(place).files["envoy.yaml"])
    (cluster,) = document["static_resources"]["clusters"]
    (group,) = cluster["load_assignment"]["endpoints"]
    assert len(group["lb_endpoints"]) == 3


def test_traefik_calls_nobody(place: Place) -> None:
    made = peers.traefik(place)
    told = yaml.safe_load(made.files["traefik.yaml"])["global"]
    assert told == {"checkNewVersion": False, "sendAnonymousUsage": False}
    routes = yaml.safe_load(made.files["routes.yaml"])
    assert len(routes["http"]["services"]["out"]["loadBalancer"]["servers"]) == 3
