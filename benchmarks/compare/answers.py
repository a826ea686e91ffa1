"""Whether a proxy gives the right answers: asked by a plain client, before any number counts."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING

from benchmarks.compare.backends import POST_ANSWER, UPLOADS, pseudorandom

if TYPE_CHECKING:
    from benchmarks.compare.scenarios import Scenario

_TIMEOUT_S = 10.0
_UPLOAD_BYTES = 16_384


class WrongAnswerError(Exception):
    """The text says what was expected and what came."""


def check(listens: str, scenario: Scenario, wanted: bytes) -> None:
    """Ask for what the load will ask for. `wanted`: what a GET gives. Raises WrongAnswerError."""
    try:
        if scenario.body_bytes:
            body = b"x" * scenario.body_bytes
            _expect(listens, scenario.method, scenario.target, body, 200, POST_ANSWER)
            _check_upload(listens)
        elif scenario.close:
            _check_closing(listens, scenario.target, wanted)
        else:
            _expect(listens, scenario.method, scenario.target, None, 200, wanted)
    except (OSError, http.client.HTTPException) as error:
        raise WrongAnswerError(f"{scenario.target}: {error!r}") from None


def _check_upload(listens: str) -> None:
    """What is sent arrives: nobody answers with what was posted, so it is stored and fetched."""
    target = f"{UPLOADS}{listens.replace(':', '-')}"
    body = pseudorandom(_UPLOAD_BYTES, listens)
    _expect(listens, "PUT", target, body, None, None)
    _expect(listens, "GET", target, None, 200, body)


def _expect(
    listens: str,
    method: str,
    target: str,
    body: bytes | None,
    status: int | None,
    wanted: bytes | None,
) -> None:
    connection = http.client.HTTPConnection(listens, timeout=_TIMEOUT_S)
    try:
        connection.request(method, target, body)
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    what = f"{method} {target}"
    if response.status != status if status else response.status >= 300:
        raise WrongAnswerError(f"{what}: status {response.status}")
    if wanted is not None and data != wanted:
        raise WrongAnswerError(f"{what}: {len(data)} bytes that are not the {len(wanted)} sent")


def _check_closing(listens: str, target: str, wanted: bytes) -> None:
    """With `Connection: close` the proxy ends the connection behind its answer."""
    host, _, port = listens.rpartition(":")
    with socket.create_connection((host, int(port)), _TIMEOUT_S) as connection:
        request = f"GET {target} HTTP/1.1\r\nHost: {listens}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        received = b""
        while data := connection.recv(65_536):
            received += data
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 ") or body != wanted:
        raise WrongAnswerError(f"GET {target}, closing: {received[:100]!r}")
