"""Backends that misbehave, in a running stack: whatever one of them sends, clients get whole
answers to what they asked, and nobody else notices.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import pytest

from lbctl.runtime.containers import LB_IMAGE
from tests.docker.conftest import docker
from tests.docker.stage import Stage, new_cli, staged
from tests.support.deadlines import scaled, until
from tests.support.images import ensure_images

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker

REQUESTS: Final = 60

# Answers a health check as it should, and everything else with what its argument is.
BACKEND: Final = r"""
import socket, sys, threading
said = sys.argv[1].encode().decode("unicode_escape").encode("latin-1")
check = sys.argv[2].encode().decode("unicode_escape").encode("latin-1")
def serve(end):
    with end:
        got = b""
        while True:
            while b"\r\n\r\n" not in got:
                more = end.recv(65536)
                if not more:
                    return
                got += more
            head, _, got = got.partition(b"\r\n\r\n")
            end.sendall(check if head.startswith(b"GET /healthz") else said)
            if b"Connection: close" in said:
                return
def tried(end):
    try:
        serve(end)
    except OSError:
        pass
listening = socket.create_server(("", 8080), backlog=128)
while True:
    threading.Thread(target=tried, args=listening.accept()[:1], daemon=True).start()
"""
OK: Final = r"HTTP/1.1 200 OK\r\n"
FINE: Final = OK + r"Content-Length: 2\r\n\r\nok"
BAD: Final = {
    "an unasked 101": r"HTTP/1.1 101 Hello\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "two lengths": OK + r"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "length and chunks": OK + r"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
    "an answer that nobody asked for": FINE + OK + r"Content-Length: 4\r\n\r\nevil",
    "a longer body than it says": FINE + "evil",
    "a flood of 1xx": r"HTTP/1.1 103 Early Hints\r\n\r\n" * 2_000 + FINE,
    "no HTTP": r"\x16\x03\x01\x02evil\r\n\r\n",
    "a head without end": OK + r"X-Evil: evil\r\n" * 4_000,
    "a bare LF": r"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "a length with a sign": OK + r"Content-Length: +2\r\n\r\nok",
    "a body to a 204": r"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil",
}
BAD_CHECKS: Final = {
    "a huge length": OK + r"Content-Length: 99999999999999999999\r\n\r\n" + "x" * 1000,
    "a body without end": OK + r"Transfer-Encoding: chunked\r\n\r\n" + r"1\r\nx\r\n" * 1000,
    "no HTTP": r"\x00\x00\x00\x00",
}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    ensure_images()
    with staged(new_cli(LBCTL_EJECT_FAILURES="0")) as stage:
        stage.cli.ok("up", "--replicas", "2")
        yield stage


@pytest.fixture
def name(stage: Stage, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"bad-{abs(hash(request.node.name)) % 10**8}"
    yield name
    docker("rm", "-f", stage.full(name), check=False)
    stage.settle({"backend-1", "backend-2"})


def join(stage: Stage, name: str, said: str, check: str = FINE) -> None:
    labels = {"lbctl.publish": "false"}
    line = stage.join_line(name, "-c", BACKEND, said, check, labels=labels, image=LB_IMAGE)
    docker(*line[:2], "--entrypoint", "python3", *line[2:])


def answers(stage: Stage, count: int) -> list[tuple[bytes, bytes]]:
    """Status line and body of so many GETs on one connection, which is made anew where it ends."""
    got: list[tuple[bytes, bytes]] = []
    while len(got) < count:
        with socket.create_connection(("127.0.0.1", stage.cli.port), scaled(10)) as end:
            end.settimeout(scaled(10))
            with end.makefile("rb") as stream:
                keeps = True
                while keeps and len(got) < count:
                    end.sendall(b"GET /ips.txt HTTP/1.1\r\nHost: t\r\n\r\n")
                    status = stream.readline()
                    while status.startswith(b"HTTP/1.1 103 "):  # which is passed on
                        assert stream.readline() == b"\r\n"
                        status = stream.readline()
                    fields = dict(
                        line.rstrip(b"\r\n").lower().split(b": ", 1)
                        for line in iter(stream.readline, b"\r\n")
                    )
                    length = int(fields.get(b"content-length", b"0"))
                    got.append((status, stream.read(length)))
                    keeps = fields.get(b"connection") != b"close"
    return got


@pytest.mark.parametrize("what", BAD)
def test_what_a_backend_sends_reaches_no_other_answer(stage: Stage, name: str, what: str) -> None:
    processes = stage.cli.status()["processes"]
    join(stage, name, BAD[what])
    stage.settle({"backend-1", "backend-2", name}, within=15, listless={name})
    lists = set()
    for status, body in answers(stage, REQUESTS):
        assert status[:13] in (b"HTTP/1.1 200 ", b"HTTP/1.1 204 ", b"HTTP/1.1 502 "), status
        assert b"evil" not in body, (status, body)
        if status.startswith(b"HTTP/1.1 200 ") and body != b"ok":
            lists.add(body)
    assert len(lists) == 1  # what nginx serves, whole
    assert stage.cli.status()["processes"] == processes


@pytest.mark.parametrize("what", BAD_CHECKS)
def test_what_a_backend_answers_to_a_check_hurts_nobody(stage: Stage, name: str, what: str) -> None:
    processes = stage.cli.status()["processes"]
    join(stage, name, FINE, BAD_CHECKS[what])
    known = stage.full(name)
    until(lambda: known in {row["name"] for row in stage.cli.status()["backends"]})
    until(lambda: stage.row(name)["state"] == "up" or "check" in stage.row(name)["reason"])
    for status, body in answers(stage, REQUESTS):
        assert status.startswith(b"HTTP/1.1 200 "), (status, body)
    assert stage.cli.status()["processes"] == processes
