"""`lbctl verify` on a real engine: it holds, and an image with a fault does not get past it."""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING

import pytest

from lbctl.runtime.containers import BACKEND_IMAGE
from tests.docker.conftest import docker
from tests.docker.stage import new_cli, staged
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker

# Our own image, whose page fails now and then where it is built with FAULT.
FAULTY = rf"""
FROM {BACKEND_IMAGE}
ARG FAULT
USER 0:0
RUN [ -z "$FAULT" ] || sed -i \
    -e 's/^http {{/&\n    map $request_id $fault {{ default 0; "~^[01]" 1; }}/' \
    -e 's/location = \/ {{/& if ($fault) {{ return 500; }}/' /etc/nginx/nginx.conf
USER 64102:64102
RUN nginx -t -c /etc/nginx/nginx.conf && rm -rf /srv/lbctl/*
"""


@pytest.fixture(scope="module")
def faulty() -> Iterator[str]:
    """A test build of a backend, with the fault in it."""
    ensure_images()
    ref = f"lbctl-test-{secrets.token_hex(5)}:1"
    docker("build", "-t", ref, "--build-arg", "FAULT=1", "-", stdin=FAULTY)
    yield ref
    docker("rmi", ref)


def test_a_healthy_stack_holds_and_is_left_as_it_was() -> None:
    ensure_images()
    with staged(new_cli()) as stage:
        stage.cli.ok("up")
        before = stage.cli.status()
        result = stage.cli("verify", "--seconds", "15", within=240)
        print(f"\n{result.out}", end="")
        assert result.status == 0, result
        for done in (
            "scale 3 -> 10", "scale 10 -> 2", "all checks fail at once", "upgrade",
            "kill -9 a backend", "stop a backend", "pause a backend",
            "kill -9 a worker", "kill -9 the controller",
        ):  # fmt: skip
            assert re.search(rf"^{done}.* held$", result.out, re.MULTILINE), result.out
        after = stage.cli.status()
        assert after["replicas"] == before["replicas"] == 3
        stage.settle(stage.names)
        assert len(stage.names) == 3


def test_an_image_with_a_fault_breaks_a_promise(faulty: str) -> None:
    with staged(new_cli()) as stage:
        # Both ask once for the page before all else: by chance, it is one that fails.
        for _ in range(5):
            result = stage.cli("up", "--backend-image", faulty)
            if result.status == 0:
                break
            assert "answered 500" in result.err, result
        for _ in range(5):
            result = stage.cli("verify", "--seconds", "2", "--json", within=240)
            assert result.status == 1, result
            if result.out:
                break
        document = json.loads(result.out)
        calm = document["disturbances"][0]
        assert calm["key"] == "calm"
        failed = {(one["kind"], one["detail"], one["backend"]) for one in calm["failures"]}
        assert failed == {("status", "500", stage.full(f"backend-{n}")) for n in (1, 2, 3)}
        assert any("status 500 from" in line for line in document["broken"])
