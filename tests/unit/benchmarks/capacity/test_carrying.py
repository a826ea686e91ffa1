from __future__ import annotations

import re
import socket
import threading

import pytest
from benchmarks.capacity import carrying

from lbctl.errors import OperationError


@pytest.mark.parametrize(("rate", "most_ms"), [(10_000.0, 51), (256.0, 2000), (1e9, 1)])
def test_pauses_make_the_rate(rate: float, most_ms: int) -> None:
    script = carrying.paced(rate, 256)
    found = re.search(r"math\.random\(0, (\d+)\)", script)
    assert found
    assert int(found[1]) == most_ms
    assert "done = function" in script


def test_no_rate_is_no_load() -> None:
    with pytest.raises(OperationError, match="half"):
        carrying.paced(0, 256)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na\n", ""),
        (b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\na\n", "answered b'HTTP/1.1 503"),
        (b"HTTP/1.1 200 OK\r\n", "closed after"),
        (b"", "closed after b''"),
    ],
)
def test_an_answer_is_whole_and_right_or_an_error(answer: bytes, told: str) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)

    def serve() -> None:
        theirs.recv(1024)
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve)
    thread.start()
    with ours, theirs:
        if told:
            with pytest.raises(OperationError, match=told):
                carrying.ask(ours)
        else:
            carrying.ask(ours)
        thread.join()
