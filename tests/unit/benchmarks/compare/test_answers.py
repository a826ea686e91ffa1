from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from benchmarks.compare import answers
from benchmarks.compare.answers import WrongAnswerError
from benchmarks.compare.scenarios import SCENARIOS

from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCENARIO = {scenario.name: scenario for scenario in SCENARIOS}
LIST = b"192.168.10.101\n"


@contextlib.contextmanager
def server(answer: Callable[[bytes], bytes], *, closes: bool = True) -> Iterator[str]:
    """Where a server takes whole requests and answers them so, one a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    client.settimeout(scaled(5))
                    request = b""
                    while not _is_whole(request):
                        request += client.recv(65_536)
                    client.sendall(answer(request))
                    client.close() if closes else held.append(client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(scaled(5))
            for client in held:
                client.close()


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    _, named, length = head.lower().partition(b"content-length: ")
    return bool(end) and len(body) == (int(length.split()[0]) if named else 0)


def ok(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class Store:
    """Takes posts; keeps what is put, with `change` done to it."""

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        self._change = change
        self._kept = b""

    def __call__(self, request: bytes) -> bytes:
        body = request.partition(b"\r\n\r\n")[2]
        if request.startswith(b"PUT "):
            self._kept = self._change(body)
            return ok(b"", 201)
        return ok(b"taken\n" if request.startswith(b"POST ") else self._kept)


def test_right_bytes_are_right() -> None:
    with server(lambda _: ok(LIST)) as listens:
        answers.check(listens, SCENARIO["small"], LIST)


@pytest.mark.parametrize(
    "wrong",
    [ok(LIST[:-1]), ok(LIST, 404), ok(LIST.replace(b"1", b"2")), b"HTTP/1.1 200 OK\r\n", b""],
)
def test_wrong_answers_are_seen(wrong: bytes) -> None:
    with server(lambda _: wrong) as listens, pytest.raises(WrongAnswerError):
        answers.check(listens, SCENARIO["small"], LIST)


def test_nobody_there_is_a_wrong_answer() -> None:
    with server(lambda _: b"") as listens:
        pass
    with pytest.raises(WrongAnswerError, match="Refused"):
        answers.check(listens, SCENARIO["small"], LIST)


def test_a_posted_body_has_to_arrive_whole() -> None:
    with server(Store(lambda body: body)) as listens:
        answers.check(listens, SCENARIO["post"], b"")
    with server(Store(lambda body: body[:-1])) as listens, pytest.raises(WrongAnswerError):
        answers.check(listens, SCENARIO["post"], b"")


def test_a_connection_that_stays_open_is_no_close(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(lambda _: ok(LIST)) as listens:
        answers.check(listens, SCENARIO["close"], LIST)
    monkeypatch.setattr(answers, "_TIMEOUT_S", 0.1)
    with server(lambda _: ok(LIST), closes=False) as listens, pytest.raises(WrongAnswerError):
        answers.check(listens, SCENARIO["close"], LIST)
