from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from benchmarks.slow_readers import Reader

from lbctl.errors import OperationError
from tests.support.deadlines import scaled, until

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = bytes(range(256))
SIZE = 4 * len(BLOCK)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n"


@contextmanager
def reader(answer: bytes) -> Iterator[Reader]:
    """One whose server sends this, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            client, _ = listening.accept()
            with client:
                client.recv(1024)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        one = Reader("127.0.0.1", listening.getsockname()[1], BLOCK, SIZE)
        try:
            yield one
        finally:
            one.close()
            thread.join(scaled(5))


def read(one: Reader, most: int) -> bool:
    """Whether it has all."""
    one.read(most)
    return one.received == SIZE


@pytest.mark.parametrize("most", [1, 7, 100, 65_536])
def test_right_bytes_are_counted_however_they_come(most: int) -> None:
    with reader(HEAD + BLOCK * 4) as one:
        assert until(lambda: read(one, most), every=0)
        one.read(most)  # it has all: that the server closes is no error


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (HEAD + BLOCK + BLOCK[::-1], "wrong bytes"),
        (HEAD + BLOCK, "closed after 256 bytes of 1024"),
        (HEAD.replace(b"200", b"503") + BLOCK * 4, "answered b'HTTP/1.1 503"),
    ],
)
def test_anything_else_is_an_error(answer: bytes, told: str) -> None:
    with reader(answer) as one, pytest.raises(OperationError, match=told):
        until(lambda: read(one, 100), every=0)
