"""A worker from its start to its end, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lbctl.config import Config
from lbctl.model import Backend, Snapshot
from lbctl.paths import Paths
from lbctl.process import wire, worker
from lbctl.process.board import Board
from tests.support.deadlines import scaled
from tests.support.scripted import loopback

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("answer", ["none", "half"])
def test_what_is_cut_off_at_the_end_is_logged(tmp_path: Path, answer: str) -> None:
    """Whoever got a part of an answer has its line, though the drain was over."""
    paths = Paths(tmp_path, tmp_path / "secrets")
    settings = Config(control=replace(Config().control, drain_timeout_s=0.1))
    reading, writing = os.pipe()
    with loopback() as listening, loopback() as backend:
        routes = (Backend("id-a", "a", *backend.getsockname()[:2]),)
        document = wire.snapshot_document(Snapshot(1, 1, routes))
        paths.snapshot.write_bytes(json.dumps(document).encode())
        seat = worker.Seat(0, "worker-0", settings, paths, [listening], Board(1))
        pid = os.fork()
        if not pid:
            try:
                os.dup2(writing, 1)
                os.close(writing)
                worker.main(seat)
            finally:
                os._exit(0)
        os.close(writing)
        backend.setblocking(True)
        backend.settimeout(scaled(10))
        try:
            with socket.create_connection(listening.getsockname(), scaled(10)) as client:
                client.send(b"GET /page HTTP/1.1\r\nHost: h\r\n\r\n")
                peer, _ = backend.accept()
                with peer:
                    peer.settimeout(scaled(10))
                    assert peer.recv(4096).startswith(b"GET /page ")
                    if answer == "half":
                        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
                        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
                    os.kill(pid, signal.SIGTERM)
                    with open(reading, "rb") as said:  # noqa: PTH123 - a descriptor, until it ends
                        rows = [json.loads(line) for line in said]
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    logged = [
        (row["target"], row["status"], row["bytes"]) for row in rows if row["log"] == "access"
    ]
    assert logged == ([("/page", 200, 4)] if answer == "half" else [])


def test_lines_that_nobody_reads_are_reported(tmp_path: Path) -> None:
    """The pipe is full: no request waits for it, and the controller is told what was lost."""
    paths = Paths(tmp_path, tmp_path / "secrets")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    with loopback() as listening, socket.socket(socket.AF_UNIX) as controller:
        controller.bind(str(paths.workers_socket))
        controller.listen(1)
        controller.settimeout(scaled(10))
        seat = worker.Seat(0, "worker-0", Config(), paths, [listening], Board(1))
        pid = os.fork()
        if not pid:
            try:
                os.dup2(writing, 1)
                worker.main(seat)
            finally:
                os._exit(0)
        try:
            link, _ = controller.accept()
            for _ in range(3):
                with socket.create_connection(listening.getsockname(), scaled(10)) as client:
                    client.settimeout(scaled(10))
                    client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                    assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
            link.settimeout(scaled(10))
            with link, link.makefile("rb") as told:
                documents = (wire.decode(line) for line in told)
                reports = (one["report"] for one in documents if "report" in one)
                assert any(one["lost"] == 3 for one in reports)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(reading)
            os.close(writing)
