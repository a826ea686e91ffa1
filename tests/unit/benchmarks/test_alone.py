from __future__ import annotations

import socket
import threading

import pytest
from benchmarks.alone import ask

from lbctl.errors import OperationError


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na\n", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "closed after"),
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
                ask(ours, "/list.txt")
        else:
            ask(ours, "/list.txt")
        thread.join()
