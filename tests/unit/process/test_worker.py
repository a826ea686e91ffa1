"""A worker from its start to its end, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
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
