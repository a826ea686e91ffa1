"""The engine ends and comes back, with the containers (live-restore) and without.

It is an engine of this module's own: that of the machine has other things to do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.docker.conftest import inspect
from tests.docker.stage import Stage, new_cli, staged
from tests.support.cli import Wrk, get
from tests.support.deadlines import until
from tests.support.engine import ADDRESS, Namespace, OwnEngine
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = ("dockerd", "ip", "nsenter", "unshare", "iptables")
MISSING = [name for name in NEEDED if shutil.which(name) is None]

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(
        os.geteuid() != 0 or bool(MISSING),
        reason=f"a second engine needs root, and {', '.join(NEEDED)}",
    ),
]

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


def test_a_stack_comes_back_with_its_engine(engine: OwnEngine, stage: Stage) -> None:
    before = stage.cli.status()
    with engine.away():
        with pytest.raises(OSError, match="refused"):
            get(stage.cli.url)
        began = time.monotonic()
    print(f"\n[engine answers {(time.monotonic() - began) * 1000:.0f} ms after] its start", end="")
    stage.settle(THREE, within=30)
    stage.report("the start of the engine, which had ended all containers", began)
    after = stage.cli.status()
    assert [row["id"] for row in after["backends"]] == [row["id"] for row in before["backends"]]
    assert after["generation"] >= before["generation"]


def test_traffic_goes_on_without_the_engine(engine: OwnEngine, stage: Stage) -> None:
    """With live-restore, which the engine was last started with.

    Engines that start make the rules of their published ports anew: for a moment then (some
    0.5 s) the kernel refuses *new* connections to a published port, whatever the container
    does. So the lb's own address is what has to answer without a gap; through the published
    port that holds while the engine is away, and for connections made before.
    """
    stage.settle(THREE, within=30)
    started = inspect(stage.lb)["State"]["StartedAt"]
    ips = [stage.address(name) for name in sorted(THREE)]
    url = f"http://{ADDRESS}:{stage.cli.port}/"
    load = Wrk(f"http://{stage.address('lb')}:8080/", seconds=8)
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
    assert inspect(stage.lb)["State"]["StartedAt"] == started
