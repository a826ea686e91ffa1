"""The history of a running stack: through kill -9, a full disk and a hundred who follow it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Cli, Wrk, get
from tests.support.deadlines import scaled, until
from tests.support.lists import assert_lists

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stack() -> Iterator[Cli]:
    one = Cli(f"t{secrets.token_hex(4)}", "local", settings={"LBCTL_WORKERS": "2"})
    try:
        one.ok("up")
        yield one
    finally:
        one.clean()


def lists_of(stack: Cli) -> dict[int, dict[str, Any]]:
    """Every list of the past, by generation, as the command tells it."""
    document = json.loads(stack.ok("history", "--since", "1d", "--json"))
    return {one["generation"]: one for one in document["generations"]}


def events_of(stack: Cli) -> list[dict[str, Any]]:
    lines = stack.ok("events", "--since", "1d", "--json").splitlines()
    return [json.loads(line) for line in lines]


def kinds(stack: Cli, kind: str) -> list[dict[str, Any]]:
    return [event for event in events_of(stack) if event["kind"] == kind]


def kill_controller(stack: Cli) -> None:
    [victim] = stack.processes("controller")
    os.kill(victim, signal.SIGKILL)
    until(lambda: stack.processes("controller") not in ([], [victim]))


class Reader(threading.Thread):
    """Reads the list that a backend serves, as fast as it can."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._end = threading.Event()
        self.seen: dict[int, list[str]] = {}  # addresses by generation
        self.start()

    def run(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(OSError, ValueError):
                document = json.loads(get(f"{self._url}/ips.json"))
                ips = [one["ip"] for one in document["backends"]]
                self.seen[document["generation"]] = ips
            time.sleep(0.001)

    def finish(self) -> dict[int, list[str]]:
        self._end.set()
        self.join()
        return self.seen


def test_every_list_that_was_ever_served_is_in_the_history(stack: Cli) -> None:
    """While it is scaled and the controller is killed, again and again."""
    reader = Reader(stack.url)
    try:
        for wanted in (5, 2, 6, 3):
            scaling = threading.Thread(target=stack, args=("scale", str(wanted)))
            scaling.start()
            time.sleep(0.7 * secrets.SystemRandom().random())
            kill_controller(stack)
            scaling.join()
            if stack.status()["replicas"] != wanted:  # nobody heard it who still is
                stack.ok("scale", str(wanted))
            until(partial(_has, stack, wanted), within=60)
    finally:
        seen = reader.finish()
    assert_lists(stack, 3)
    lists = lists_of(stack)
    assert len(seen) > 4
    for generation, ips in seen.items():
        assert [one["ip"] for one in lists[generation]["members"]] == ips, generation
    assert sorted(lists) == list(range(1, max(lists) + 1))
    for before, after in pairwise(lists[one] for one in sorted(lists)):
        names = {one["name"] for one in before["members"]} | set(after["joined"])
        assert {one["name"] for one in after["members"]} == names - set(after["left"])
    events = events_of(stack)
    numbers = [event["seq"] for event in events]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len([event for event in events if event["kind"] == "leader"]) == 5
    directory = stack.state / stack.project / "memberships"
    files = sorted(path.name for path in directory.iterdir())
    assert len(files) == len(lists) + 1
    assert (directory / "latest").readlink().name == files[-2]


def _has(stack: Cli, wanted: int) -> bool:
    status = stack.status()
    up = [row for row in status["backends"] if row["state"] == "up"]
    return bool(status["replicas"] == wanted == len(up) == len(status["backends"]))


def test_who_did_what_and_what_came_of_it(stack: Cli) -> None:
    name = stack.backends()[0]["name"]
    stack.ok("scale", "4")
    stack.ok("drain", name)
    stack.ok("undrain", name)
    stack.ok("rollout")
    stack.ok("reload", "--fall", "4")
    [worker, _] = stack.processes("worker")
    os.kill(worker, signal.SIGKILL)
    until(lambda: any(str(worker) in one["text"] for one in kinds(stack, "process")))
    told = events_of(stack)
    by_kind: dict[str, list[str]] = {}
    for event in told:
        by_kind.setdefault(event["kind"], []).append(f"{event['subject']} {event['text']}".strip())
    assert [one.partition(" by ")[0] for one in by_kind["audit"]] == [
        "scale", "scale", "drain", "undrain", "rollout", "reload",
    ]  # fmt: skip
    assert "to 4: done" in by_kind["scale"]
    assert any(one.startswith(f"{name} drained by hand") for one in by_kind["drain"])
    assert by_kind["undrain"][0].startswith(name)
    assert by_kind["rollout"] == ["2 running, 0 of 4 replaced", "2 done, 4 of 4 replaced"]
    assert by_kind["reload"] == ["new workers and controllers: fall"]
    assert len(by_kind["join"]) == len(by_kind["leave"]) + 4
    assert len(by_kind["publish"]) > 4
    # Who was in rotation when the first list was made: they, and nobody else.
    (first, *_) = [event for event in told if event["kind"] == "generation"]
    out = stack.ok("history", "--at", first["at"])
    assert all(one["name"] in out for one in first["data"]["joined"])


def test_events_as_they_come(stack: Cli) -> None:
    following = subprocess.Popen(
        [sys.executable, "-m", "lbctl", "events", "-f", "--json"],
        env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        assert following.stdout is not None
        assert following.stderr is not None
        json.loads(following.stdout.readline())
        kill_controller(stack)
        stack.ok("scale", "4")
        last = kinds(stack, "audit")[-1]["seq"]
        seqs = [1]
        while seqs[-1] < last:
            seqs.append(json.loads(following.stdout.readline())["seq"])
        assert seqs[1:] == list(range(seqs[1], last + 1))  # nothing twice, nothing missing
        following.send_signal(signal.SIGINT)
        assert following.wait(scaled(10)) == 130
        assert following.stderr.read() == "interrupted\n"
    finally:
        following.kill()
        following.communicate()


def test_who_reads_may_have_seen_enough(stack: Cli) -> None:
    following = subprocess.Popen(
        [sys.executable, "-m", "lbctl", "events", "-f", "--json"],
        env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert following.stdout is not None
    assert following.stderr is not None
    following.stdout.readline()
    following.stdout.close()
    stack.ok("scale", "4")
    assert following.wait(scaled(10)) == 1
    assert following.stderr.read() == ""
    following.stderr.close()


def test_a_hundred_who_follow_and_some_who_do_not_read(stack: Cli) -> None:
    [controller] = stack.processes("controller")
    clients = [_follower(stack) for _ in range(100)]
    deaf, reading = clients[:30], clients[30:]
    try:
        before = _resident_bytes(controller)
        wrk = Wrk(stack.url + "/", seconds=5)
        for wanted in (6, 2, 5):
            stack.ok("scale", str(wanted))
        load = wrk.finish()
        assert load.failed == 0, load.text
        last = kinds(stack, "audit")[-1]["seq"]
        for client in reading:
            assert f"id: {last}\n".encode() in _until(client, f"id: {last}\n".encode())
        grown = _resident_bytes(controller) - before
        print(f"100 followers: {grown / 1e6:.1f} MB more after three scalings")
        assert grown < 60_000_000
        assert stack.processes("controller") == [controller]
        stack.ok("scale", "3")
    finally:
        for client in (*deaf, *reading):
            client.close()


def _follower(stack: Cli) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", stack.admin_port), timeout=scaled(10))
    client.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200 OK" in client.recv(15)
    return client


def _until(client: socket.socket, end: bytes) -> bytes:
    read = b""
    while end not in read:
        part = client.recv(65_536)
        assert part, "the stream ended"
        read += part
    return read


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_full_disk_costs_nothing_but_history(stack: Cli) -> None:
    directory = stack.state / stack.project / "history"
    kill_controller(stack)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(directory)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        kill_controller(stack)  # the next one finds an empty disk, and soon a full one
        wrk = Wrk(stack.url + "/", seconds=4)
        (directory / "filling").write_bytes(b"x" * 120_000)
        until(partial(_scale_until_failing, stack), within=60)
        load = wrk.finish()
        assert load.failed == 0, load.text
        assert stack.metric("lbctl_history_failing") == 1
        assert "history: not written, " in stack.ok("status")
        stack.ok("scale", "4")
        assert_lists(stack, 4)
        assert "cannot be written" in stack.logged()
        (directory / "filling").unlink()
        until(lambda: stack.status()["history"]["state"] == "kept", within=20)
        assert stack.metric("lbctl_history_lost_total") == 0
        numbers = [event["seq"] for event in events_of(stack)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert any("written again" in one["text"] for one in kinds(stack, "history"))
    finally:
        stack("down")
        subprocess.run(["umount", "-l", str(directory)], check=False)


def _scale_until_failing(stack: Cli) -> bool:
    for wanted in ("3", "5"):
        stack.ok("scale", wanted)
    return bool(stack.status()["history"]["state"] == "failing")


def test_a_damaged_file_is_put_aside_by_the_next_leader(stack: Cli) -> None:
    stack.ok("scale", "4")
    known = lists_of(stack)
    directory = stack.state / stack.project / "history"
    [victim] = stack.processes("controller")
    os.kill(victim, signal.SIGSTOP)
    for path in directory.glob("history.db*"):
        path.write_bytes(os.urandom(50_000))
    os.kill(victim, signal.SIGKILL)
    until(lambda: stack.processes("controller") not in ([], [victim]))
    stack.ok("scale", "3")
    lists = lists_of(stack)
    assert {number: one["members"] for number, one in lists.items() if number in known} == {
        number: one["members"] for number, one in known.items()
    }
    assert max(lists) > max(known)
    assert len(list(directory.glob("history.db.damaged-*Z"))) == 1
    assert any("was damaged" in one["text"] for one in kinds(stack, "history"))
