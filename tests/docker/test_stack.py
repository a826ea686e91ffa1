"""The product on a real engine, as its user has it: up, scale, and what containers do."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.docker.conftest import BASE, docker, inspect
from tests.docker.stage import Stage, new_cli, staged
from tests.support.cli import Wrk, get
from tests.support.deadlines import scaled, until
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker

THREE = frozenset({"backend-1", "backend-2", "backend-3"})

# What somebody else's image may do: answer, and know nothing of lists.
ANSWERS = r"""
cat > /answer <<'END'
#!/bin/sh
while IFS= read -r line && [ "$line" != "$(printf '\r')" ]; do :; done
printf 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nmine\n'
END
chmod +x /answer
exec nc -lk -p 8080 -e /answer
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Stage]:
    ensure_images()
    with staged(new_cli()) as stage:
        began = time.monotonic()
        stage.cli.ok("up")
        stage.settle(THREE)
        stage.report("lbctl up", began)
        yield stage


@pytest.fixture
def stage(shared: Stage) -> Iterator[Stage]:
    """Three backends at the start of each test, whatever the last one left."""
    yield shared
    for name in docker("ps", "-aq", "--filter", f"name=^/{shared.full('stranger')}").split():
        docker("rm", "-f", name)
    paused = docker("ps", "-q", "--filter", "status=paused", *_of(shared)).split()
    if paused:
        docker("unpause", *paused)
    shared.cli.ok("scale", "3")
    shared.settle(THREE)


def _of(stage: Stage) -> tuple[str, str]:
    return "--filter", f"label=lbctl.project={stage.cli.project}"


def test_every_backend_answers_in_turn(stage: Stage) -> None:
    served: Counter[str] = Counter()
    for _ in range(30):
        with urllib.request.urlopen(stage.cli.url + "/", timeout=scaled(5)) as response:  # noqa: S310
            served[response.headers["X-Served-By"]] += 1
    assert set(served) == {stage.address(name) for name in THREE}
    assert max(served.values()) - min(served.values()) <= 4


def test_scaling_costs_no_request(stage: Stage) -> None:
    load = Wrk(stage.cli.url + "/", seconds=7)
    for count in (6, 2):
        began = time.monotonic()
        stage.cli.ok("scale", str(count))
        stage.report(f"lbctl scale {count}", began)
        assert len(stage.names) == count
        stage.settle(stage.names)
    said = load.finish()
    assert said.failed == 0, said.text
    assert said.requests > 100, said.text


def test_up_again_changes_nothing(stage: Stage) -> None:
    until(stage.both_lbs)
    before, started = stage.cli.status(), [inspect(lb)["State"]["StartedAt"] for lb in stage.lbs]
    result = stage.cli("up")
    assert result.status == 0, result
    assert result.err.splitlines() == ["runtime: docker (it was asked for)"]
    after = stage.cli.status()
    assert after["processes"] == before["processes"]
    assert after["generation"] == before["generation"]
    assert [row["id"] for row in after["backends"]] == [row["id"] for row in before["backends"]]
    assert [inspect(lb)["State"]["StartedAt"] for lb in stage.lbs] == started


def test_two_projects_side_by_side(stage: Stage) -> None:
    with staged(new_cli()) as other:
        other.cli.ok("up", "--replicas", "2")
        other.settle({"backend-1", "backend-2"})
        stage.settle(THREE)
        assert not {row["ip"] for row in other.cli.backends()} & {
            row["ip"] for row in stage.cli.backends()
        }
        other.cli.ok("down")
        assert other.project.left() == {"containers": [], "networks": [], "volumes": []}
        stage.settle(THREE)


def test_a_stranger_joins(stage: Stage) -> None:
    stage.disturb(*stage.join_line("stranger"), then=THREE | {"stranger"})


def test_a_stranger_that_stops_is_out_before_it_is_dead(stage: Stage) -> None:
    stage.join("stranger")
    stage.settle(THREE | {"stranger"})
    stranger = stage.full("stranger")
    # Half a request: nginx waits for the rest, and so lives on for a while after its signal.
    half = _half_a_request(stage.address("stranger"))
    load = Wrk(stage.cli.url + "/", seconds=4)
    until(lambda: stage.row("stranger")["requests_per_second"] > 0)
    with stage.disturbed("stop", "-t", "30", stranger) as began, half:
        stage.settle(THREE)
        stage.report("docker stop stranger, which still runs", began)
        assert inspect(stranger)["State"]["Running"]
        assert stage.row("stranger")["state"] == "draining"
    said = load.finish()
    assert said.failed == 0, said.text
    assert not inspect(stranger)["State"]["Running"]


def _half_a_request(ip: str) -> socket.socket:
    one = socket.create_connection((ip, 8080), timeout=scaled(5))
    one.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n")
    return one


def test_a_killed_backend_costs_no_get(stage: Stage) -> None:
    load = Wrk(stage.cli.url + "/", seconds=3)
    until(lambda: stage.cli.metric("lbctl_requests_total") > 100)
    stage.disturb("kill", stage.full("backend-2"), then=THREE - {"backend-2"})
    said = load.finish()
    assert said.failed == 0, said.text
    assert stage.row("backend-2")["reason"] == "exited, exit status 137"


def test_a_crashed_backend_is_started_again_with_the_right_list(stage: Stage) -> None:
    before = stage.cli.status()["generation"]
    load = Wrk(stage.cli.url + "/", seconds=3)
    began = time.monotonic()
    os.kill(inspect(stage.full("backend-2"))["State"]["Pid"], signal.SIGKILL)
    until(lambda: stage.cli.status()["generation"] >= before + 2)
    stage.settle(THREE)
    stage.report("kill -9 of a backend's nginx, which the engine starts again", began)
    said = load.finish()
    assert said.failed == 0, said.text


def test_a_paused_backend_is_out_until_it_goes_on(stage: Stage) -> None:
    stage.disturb("pause", stage.full("backend-1"), then=THREE - {"backend-1"})
    row = stage.row("backend-1")
    assert (row["state"], row["reason"]) == ("down", "it is paused")
    stage.disturb("unpause", stage.full("backend-1"), then=THREE)


def test_a_backend_off_the_network_is_out_until_it_is_back(stage: Stage) -> None:
    link = stage.cli.project, stage.full("backend-3")
    stage.disturb("network", "disconnect", *link, then=THREE - {"backend-3"})
    assert "no address" in stage.row("backend-3")["reason"]
    stage.disturb("network", "connect", *link, then=THREE)


def test_a_restarted_backend_gets_its_list_again(stage: Stage) -> None:
    before = stage.cli.status()["generation"]
    with stage.disturbed("restart", stage.full("backend-1")) as began:
        until(lambda: stage.cli.status()["generation"] >= before + 2)
        stage.settle(THREE)
        stage.report("docker restart backend-1", began)


def test_a_reload_of_nginx_takes_nobody_out(stage: Stage) -> None:
    before = stage.cli.status()
    kills = 'lbctl_docker_events_total{action="kill"}'
    seen = stage.sample(kills)
    load = Wrk(stage.cli.url + "/", seconds=2)
    docker("kill", "--signal", "HUP", stage.full("backend-1"))
    until(lambda: stage.sample(kills) > seen)
    said = load.finish()
    assert said.failed == 0, said.text
    assert stage.cli.status()["generation"] == before["generation"]
    stage.settle(THREE)


LIES = {
    "port-0": ({"lbctl.port": "0"}, 'label lbctl.port="0" is not a whole number'),
    "same-port": ({"lbctl.admin-port": "8080"}, "lbctl.port and lbctl.admin-port are both 8080"),
    "newline": ({"lbctl.probe": "/x\r\nHost: <b>"}, 'label lbctl.probe="/x??Host: <b>" is not'),
    "weight-x": ({"lbctl.weight": "x"}, 'label lbctl.weight="x" is not'),
    "other-role": ({"lbctl.role": "lb"}, ""),
    "other-project": ({"lbctl.project": "somebody-else"}, ""),
}


def test_labels_that_lie_keep_out_and_harm_nothing(stage: Stage) -> None:
    generation = stage.cli.status()["generation"]
    load = Wrk(stage.cli.url + "/", seconds=4)
    for name, (labels, _) in LIES.items():
        stage.join(f"stranger-{name}", labels=labels)
    known = {stage.full(f"stranger-{name}") for name, (_, reason) in LIES.items() if reason}
    until(lambda: known <= {row["name"] for row in stage.cli.backends("invalid")})
    for name, (_, reason) in LIES.items():
        if reason:
            row = stage.row(f"stranger-{name}")
            assert row["state"] == "invalid"
            assert row["reason"].startswith(reason), row["reason"]
    assert len(stage.cli.status()["backends"]) == len(THREE) + len(known)
    stage.settle(THREE)
    assert stage.cli.status()["generation"] == generation
    said = load.finish()
    assert said.failed == 0, said.text


def test_who_has_no_admin_endpoint_stays_out_unless_it_wants_no_list(stage: Stage) -> None:
    stage.join("stranger-1", "sh", "-c", ANSWERS, image=BASE)
    refusal = "it does not take the list: connection refused"
    until(lambda: stage.row("stranger-1")["reason"] == refusal)
    assert stage.row("stranger-1")["state"] == "enrolling"
    stage.settle(THREE)
    docker("rm", "-f", stage.full("stranger-1"))

    listless = {"lbctl.publish": "false"}
    began = time.monotonic()
    stage.join("stranger-2", "sh", "-c", ANSWERS, image=BASE, labels=listless)
    stage.settle(THREE | {"stranger-2"}, listless={"stranger-2"})
    stage.report("docker run of one that takes no list", began)
    answers: Counter[str] = Counter()

    def served() -> bool:
        answers.update(get(stage.cli.url + "/") for _ in range(16))
        return answers["mine\n"] >= 4

    until(served)  # a newcomer's share is small at first (slow start)
    assert len(answers) == 2, answers  # the others say one list


def test_two_commands_at_the_same_time_come_one_after_the_other() -> None:
    ensure_images()
    with staged(new_cli()) as stage, ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(stage.cli, ["up", "up"]))
        assert [one.status for one in ended] == [0, 0], ended
        stage.settle(THREE)
        until(stage.both_lbs)
        up, down = pool.map(stage.cli, ["up", "down"])  # what `up` waits for may be gone
        assert down.status == 0, down
        assert up.status == 0 or "was ended while it started" in up.err, up
        stage.cli.ok("down")
        assert not any(stage.project.left().values())


def test_the_pod_does_not_hold_up_a_machine_that_is_shut_down(stage: Stage) -> None:
    """Where containers outlive their engine, systemd ends them with SIGTERM and waits 90 s for
    those that do not heed it (systemd-shutdown(8)). Tried on another one like it.
    """
    config, name = inspect(stage.project.names.pod)["Config"], stage.full("stranger")
    command = [*config["Entrypoint"], *config["Cmd"]]
    docker(
        "run", "-d", "--name", name, "--user", config["User"], "--entrypoint", command[0],
        "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        config["Image"], *command[1:],
    )  # fmt: skip

    def ended() -> bool:
        """Asked more than once: it may not have set its trap yet."""
        docker("kill", "--signal", "TERM", name, check=False)
        return not inspect(name)["State"]["Running"]

    until(ended)
    assert inspect(name)["State"]["ExitCode"] == 128 + signal.SIGTERM


def refuse_strange(stage: Stage, command: str, piece: str) -> None:
    name = stage.full(piece)
    theirs = docker("run", "-d", "--name", name, BASE, "sleep", "600")
    try:
        refused = stage.cli(command)
        assert refused.status == 2, refused
        assert f"there is a Docker container {name} that is not lbctl's" in refused.err
        assert inspect(name)["Id"] == theirs
    finally:
        docker("rm", "-f", theirs)


def test_an_upgrade_meets_somebody_elses_container_of_our_name(stage: Stage) -> None:
    docker("rm", "-f", stage.full("guard"))
    refuse_strange(stage, "upgrade", "guard")
    stage.cli.ok("up")


@pytest.mark.parametrize("piece", ["pod", "guard", "lb-a"])
def test_somebody_elses_container_of_our_name_is_left_alone(piece: str) -> None:
    ensure_images()
    with staged(new_cli()) as stage:
        refuse_strange(stage, "up", piece)
