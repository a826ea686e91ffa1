"""The history on the volume of two lbs: the next leader goes on where a killed one ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker.conftest import docker
from tests.docker.stage import new_cli, staged
from tests.support.deadlines import until
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from tests.support.cli import Cli

pytestmark = pytest.mark.docker


def lines(cli: Cli) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cli.ok("events", "--since", "1d", "--json").splitlines()]


def test_the_next_leader_goes_on_with_it() -> None:
    ensure_images()
    with staged(new_cli()) as stage:
        cli = stage.cli
        cli.ok("up")
        until(stage.both_lbs, within=20)
        cli.ok("scale", "4")
        first, leader = cli.status()["leader"], stage.leader
        docker("kill", leader)
        until(lambda: cli.status()["leader"] != first, within=20)
        cli.ok("scale", "2")
        told = lines(cli)
        assert [one["seq"] for one in told] == list(range(1, len(told) + 1))
        leaders = [one["subject"] for one in told if one["kind"] == "leader"]
        assert leaders == [first, cli.status()["leader"]]
        document = json.loads(cli.ok("history", "--since", "1d", "--json"))
        sizes = [len(one["members"]) for one in document["generations"]]
        assert [one["generation"] for one in document["generations"]] == list(
            range(1, len(sizes) + 1)
        )
        assert max(sizes) == 4
        assert sizes[-1] == 2
        # On the volume, root's alone, and no worker reaches it.
        here = stage.leader
        listed = docker("exec", here, "ls", "-ln", "/var/lib/lbctl/history", "/var/lib/lbctl")
        assert "history.db" in listed
        modes = {line.split()[-1]: line.split()[0] for line in listed.splitlines() if "rw" in line}
        assert modes["history"] == modes["memberships"] == "drwx------"
        latest = docker("exec", here, "cat", "/var/lib/lbctl/memberships/latest")
        assert json.loads(latest)["generation"] == len(sizes)
