"""The engine ends and comes back, with the containers (live-restore) and without.

It is an engine of this module's own: that of the machine has other things to do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.docker.conftest import inspect
from tests.docker.stage import Stage, new_cli, staged
from tests.support.cli import Wrk, get
from tests.support.deadlines import scaled, until
from tests.support.engine import ADDRESS, Namespace, OwnEngine
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEEDED = ("dockerd", "ip", "nsenter", "unshare", "iptables")
MISSING = [name for name in NEEDED if shutil.which(name) is None]

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(
        os.geteuid() != 0 or bool(MISSING),
        reason=f"a second engine needs root, and {', '.join(NEEDED)}",
    ),
]

OWN_PORT = 18080
THREE = frozenset({"backend-1", "backend-2", "backend-3"})


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    try:
        namespace = Namespace()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
    try:
        yield namespace
    finally:
        namespace.remove()


@pytest.fixture(scope="module")
def engine(namespace: Namespace) -> Iterator[OwnEngine]:
    images = ensure_images()
    engine = OwnEngine(namespace)
    try:
        engine.start()
        engine.load(images.nginx, images.lb)
        with pytest.MonkeyPatch.context() as patch, namespace.entered():
            patch.setenv("DOCKER_HOST", engine.host)
            yield engine
    finally:
        engine.remove()


@pytest.fixture(scope="module")
def stage(engine: OwnEngine) -> Iterator[Stage]:
    with staged(new_cli(LBCTL_BIND="0.0.0.0")) as stage:
        stage.cli.ok("up")
        stage.settle(THREE)
        yield stage


@pytest.mark.parametrize("round", [1, 2, 3])
def test_a_stack_comes_back_with_its_engine(engine: OwnEngine, stage: Stage, round: int) -> None:  # noqa: A002
    """Again and again: whether the engine starts an lb before its pod, which fails, is chance.
    Then the guard starts it.
    """
    before = stage.cli.status()
    with engine.away():
        with pytest.raises(OSError, match="refused"):
            get(stage.cli.url)
        began = time.monotonic()
    print(f"\n[engine answers {(time.monotonic() - began) * 1000:.0f} ms after] its start", end="")
    stage.settle(THREE, within=30)
    stage.report("the start of the engine, which had ended all containers", began)
    until(stage.both_lbs, within=30)
    stage.report("the start of the engine: both lbs are back", began)
    after = stage.cli.status()
    assert [row["id"] for row in after["backends"]] == [row["id"] for row in before["backends"]]
    assert after["generation"] >= before["generation"]


def test_traffic_goes_on_without_the_engine(engine: OwnEngine, stage: Stage) -> None:
    """With live-restore, which the engine was last started with.

    Engines that start make the rules of their published ports anew: for a moment then (some
    0.5 s) the kernel refuses *new* connections to a published port, whatever the container
    does. What has to answer without a gap, also to whoever comes new, is an address that a rule
    of the operator's own leads to the pod (docs/availability.md); through the port that the
    engine publishes that holds while the engine is away, and for connections made before.
    """
    stage.settle(THREE, within=30)
    until(stage.both_lbs)
    started = [inspect(lb)["State"]["StartedAt"] for lb in stage.lbs]
    ips = [stage.address(name) for name in sorted(THREE)]
    url = f"http://{ADDRESS}:{stage.cli.port}/"
    forward(OWN_PORT, f"{stage.address('pod')}:8080")
    load = Wrk(f"http://{ADDRESS}:{OWN_PORT}/", seconds=8, connections=64)
    published = Wrk(url, seconds=8, connections=8)
    until(lambda: stage.cli.metric("lbctl_requests_total") > 100)
    with engine.away():
        served = {get(f"http://{ip}:8080/ips.txt") for ip in ips} | {get(url) for _ in range(50)}
        assert len(served) == 1
        began = time.monotonic()
    print(f"\n[engine answers {(time.monotonic() - began) * 1000:.0f} ms after] its start", end="")
    stage.settle(THREE)
    stage.join("stranger")
    stage.settle(THREE | {"stranger"})
    stage.report("the start of the engine, with one more backend started then", began)
    stage.cli.ok("scale", "2")
    stage.settle(stage.names)
    assert len(stage.names) == 2
    said = load.finish()
    assert said.failed == 0, said.text
    outside = published.finish()
    assert outside.not_2xx == 0, outside.text
    assert not any(outside.socket_errors.values()), outside.text
    print(f"\n[new connections refused while the engine started] {len(outside.unanswered)}", end="")
    assert [inspect(lb)["State"]["StartedAt"] for lb in stage.lbs] == started


def test_verify_restarts_the_engine(engine: OwnEngine, stage: Stage, tmp_path: Path) -> None:
    with engine.away():  # the next end of it leaves the containers be
        pass
    stage.cli.ok("scale", "3")
    stage.settle(stage.names, within=30)
    until(stage.both_lbs, within=30)
    port = OWN_PORT + 1
    forward(port, f"{stage.address('pod')}:8080")
    target = ("--target", f"{ADDRESS}:{port}")
    asked, done = tmp_path / "asked", tmp_path / "done"
    os.mkfifo(asked)
    os.mkfifo(done)

    def restart() -> None:
        asked.read_text()
        with engine.away():
            pass
        done.write_text("")

    at_hand = threading.Thread(target=restart, daemon=True)
    at_hand.start()
    command = f"sh -c 'echo > {asked}; cat {done}'"
    said = stage.cli("verify", *target, "--restart-engine", command, "--seconds", "5", within=240)
    at_hand.join(scaled(60))
    print(f"\n{said.out}", end="")
    assert said.status == 0, f"{stage.cli('logs', '--tail', '400').out}\n{said.out}"
    assert re.search(r"^restart the engine +\d+ +0 +0 .* held$", said.out, re.MULTILINE), said.out
    stage.settle(stage.names)
    assert len(stage.names) == 3


def forward(port: int, target: str) -> None:
    """A DNAT rule of one's own, as docs/availability.md has it; it goes with the namespace."""
    for chain in ("PREROUTING", "OUTPUT"):
        rule = f"-d {ADDRESS} -p tcp --dport {port} -j DNAT --to-destination {target}"
        subprocess.run(["iptables", "-t", "nat", "-I", chain, *rule.split()], check=True)
