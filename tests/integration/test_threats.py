"""What will be thrown at it, thrown at a running stack: routing, trust, resources.

docs/testing.md lists every class. What takes a backend that misbehaves is tested on the request
path alone (tests/unit/proxy); slow clients by the thousand are in test_slow_clients.py.
"""

from __future__ import annotations

import json
import secrets
import socket
import struct
from collections import Counter
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli, get
from tests.support.credentials import token_for
from tests.support.deadlines import scaled, until
from tests.support.lists import assert_lists
from tests.support.nginx import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

RESET = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def stack() -> Iterator[Cli]:
    settings = {"LBCTL_WORKERS": "2", "LBCTL_CLIENT_IDLE_TIMEOUT_S": "3"}
    cli = Cli(f"t{secrets.token_hex(4)}", "local", settings=settings)
    try:
        cli.ok("up")
        yield cli
    finally:
        cli.clean()


@pytest.fixture(autouse=True)
def unharmed(stack: Cli) -> Iterator[None]:
    """Whatever a test sends: no process is replaced, nothing is left, nothing is broken."""
    before = stack.status()["processes"]
    yield
    until(lambda: stack.metric("lbctl_backend_in_flight") == 0)
    assert stack.status()["processes"] == before
    assert_lists(stack, 3)
    rows = [json.loads(line) for line in stack.logged().splitlines()]
    assert not [row for row in rows if row["log"] == "control" and "error" in row]


def connected(stack: Cli) -> socket.socket:
    return socket.create_connection(("127.0.0.1", stack.port), timeout=scaled(5))


def said(stack: Cli, request: bytes) -> bytes:
    """All that comes back, until the lb closes or has nothing more to say to a half-closed end."""
    with closing(connected(stack)) as end:
        received = b""
        with suppress(ConnectionError):
            end.sendall(request)
            end.shutdown(socket.SHUT_WR)
            while part := end.recv(65_536):
                received += part
        return received


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer[9:12])


def request(target: str, *lines: str, method: str = "GET", body: bytes = b"") -> bytes:
    head = "".join(f"{line}\r\n" for line in lines)
    if not any(line.startswith("Host:") for line in lines):
        head += "Host: site\r\n"
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body


def tokens(stack: Cli) -> tuple[str, str]:
    """The admin token, and the one that writes the list of the first backend."""
    state = stack.state / stack.project
    secret = (state / "publish-secret").read_text().strip()
    return (state / "admin-token").read_text().strip(), token_for(secret, stack.backends()[0])


# Routing and trust.


def test_no_request_reaches_the_admin_port_through_the_proxy(stack: Cli) -> None:
    admin, _ = tokens(stack)
    bearer, place = f"Authorization: Bearer {admin}", f"127.0.0.1:{stack.admin_port}"
    for path in ("/metrics", "/readyz", "/api/v1/status", "/api/v1/openapi.json", "/api/v1/events"):
        for sent in (
            request(path, bearer),
            request(path, bearer, f"Host: {place}"),
            request(f"http://{place}{path}", bearer, f"Host: {place}"),
        ):
            answer = said(stack, sent)
            assert status(answer) == 404, sent
            assert b"\r\nX-Served-By: 127." in answer  # a backend had it, and does not know it
    body = b'{"replicas": 1}'
    lines = bearer, "Content-Type: application/json", f"Content-Length: {len(body)}"
    answer = said(stack, request("/api/v1/scale", *lines, method="POST", body=body))
    assert status(answer) == 405
    for sent in (request(place, bearer, method="CONNECT"), request(f"//{place}/metrics", bearer)):
        assert status(said(stack, sent)) in (400, 404, 501)


def test_no_request_reaches_a_backends_admin_port_through_the_proxy(stack: Cli) -> None:
    _, token = tokens(stack)
    bearer, ip = f"Authorization: Bearer {token}", stack.backends()[0]["ip"]
    forged = b"6.6.6.6\n"
    for target, *lines in (
        ("/ips.txt",),
        ("/ips.txt", f"Host: {ip}:9000"),
        (f"http://{ip}:9000/ips.txt", f"Host: {ip}:9000"),
    ):
        lines += [bearer, f"Content-Length: {len(forged)}"]
        answer = said(stack, request(target, *lines, method="PUT", body=forged))
        assert status(answer) == 405
    for target in ("/stub_status", f"http://{ip}:9000/stub_status"):
        host = f"Host: {ip}:9000"
        assert status(said(stack, request(target, bearer, host))) == 404
    assert "6.6.6.6" not in get(stack.url + "/ips.txt")


def test_a_backends_admin_port_takes_nothing_without_its_token(stack: Cli) -> None:
    admin, firsts = tokens(stack)
    for row in stack.backends()[1:]:
        for fields in (
            {},
            {"Authorization": f"Bearer {firsts}"},
            {"Authorization": "Bearer " + "0" * 64},
            {"Authorization": f"Bearer {admin}"},
            {"Authorization": "Bearer ../tokens"},
            {"Authorization": "Bearer "},
        ):
            assert ask(row["ip"], 9000, "PUT", "/ips.txt", fields=fields, body=b"x").status == 401


NO_PREFIX = (
    "/ips.txtx", "/ips.txt/", "/ips.txt/x", "/ips.txt.bak", "/ipsXtxt", "/x/ips.txt", "/IPS.TXT",
    "/healthzz", "/healthz/", "/ips.json5", "/stub_status", "/index.html", "/ips.txt%00",
    "/../nginx.conf", "/%2e%2e/nginx.conf", "/..%2fnginx.conf", "/tmp", "/www/ips.txt",
)  # fmt: skip


@pytest.mark.parametrize("path", NO_PREFIX)
def test_no_path_matches_too_much_for_clients(stack: Cli, path: str) -> None:
    assert status(said(stack, request(path))) in (400, 404)


@pytest.mark.parametrize(
    "path", ["/ips.txtx", "/ips.txt/", "/ips.json/x", "/x/ips.txt", "//ips.txt", "/%2fips.txt", "/"]
)
def test_nor_for_who_writes_lists(stack: Cli, path: str) -> None:
    _, token = tokens(stack)
    ip = stack.backends()[0]["ip"]
    fields = {"Authorization": f"Bearer {token}"}
    assert ask(ip, 9000, "PUT", path, fields=fields, body=b"x").status in (400, 404, 409)
    [www] = [
        directory for directory in stack.state.glob("*/backends/*/www")
        if ip in (directory.parent / "nginx.conf").read_text()
    ]  # fmt: skip
    assert sorted(file.name for file in www.iterdir()) == ["index.html", "ips.json", "ips.txt"]


@pytest.mark.parametrize(
    "path", ["/metricsx", "/metrics/", "/api/v1/statusx", "/api/v1", "/api/v1/../../metrics/x"]
)
def test_nor_on_the_admin_port(stack: Cli, path: str) -> None:
    assert ask("127.0.0.1", stack.admin_port, "GET", path).status == 404


DOUBTFUL = {
    "two Hosts": request("/", "Host: a", "Host: b"),
    "the same Host twice": request("/", "Host: a", "Host: a"),
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "a target that disagrees with Host": request("http://a/", "Host: b"),
    "two lengths": request("/", "Content-Length: 1", "Content-Length: 2", body=b"xx"),
    "a length beside a coding": request(
        "/", "Content-Length: 1", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("sent", DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_what_can_be_read_in_two_ways_is_refused_and_ends_the_connection(
    stack: Cli, sent: bytes
) -> None:
    answer = said(stack, sent + request("/ips.txt"))
    assert status(answer) == 400
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"X-Served-By" not in answer


def test_what_a_stranger_says_of_its_origin_counts_for_nothing(stack: Cli) -> None:
    lines = (
        "X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Request-Id: forged",
        "X_Forwarded_For: 6.6.6.6", "Connection: X-Forwarded-For, X-Request-Id, Forwarded",
    )  # fmt: skip
    assert status(said(stack, request("/origin", *lines))) == 404

    def row() -> dict[str, object]:
        rows = [json.loads(line) for line in stack.logged().splitlines()]
        return next((row for row in rows if row.get("target") == "/origin"), {})

    logged = until(row)
    assert logged["client"] == "127.0.0.1"
    assert logged["request_id"] != "forged"


def test_an_upgrade_that_is_answered_by_200_leaves_an_ordinary_connection(stack: Cli) -> None:
    upgrade = request("/ips.txt", "Upgrade: websocket", "Connection: upgrade")
    answer = said(stack, upgrade + request("/ips.json"))
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert b'"backends"' in answer


# Resources.


def test_many_tiny_chunks(stack: Cli) -> None:
    chunks = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    sent = request("/", "Transfer-Encoding: chunked", method="POST", body=chunks)
    assert status(said(stack, sent)) == 405


def test_many_small_fields(stack: Cli) -> None:
    fields = [f"X-{number}: y" for number in range(200)]
    assert status(said(stack, request("/", *fields))) == 431
    assert status(said(stack, request("/", *fields[:90]))) == 200
    assert status(said(stack, request("/", "X: " + "y" * 40_000))) == 431


def test_a_pipeline_is_answered_in_order(stack: Cli) -> None:
    targets = ["/ips.txt", "/nothing", "/ips.json", "/healthz"] * 100
    answer = said(stack, b"".join(map(request, targets)))
    codes = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert codes == [200, 404, 200, 200] * 100


def test_connections_that_are_opened_and_left(stack: Cli) -> None:
    with ExitStack() as opened:
        ends = [opened.enter_context(closing(connected(stack))) for _ in range(500)]
        for end in ends[::2]:
            end.sendall(b"GET / HT")  # half of them half-way
        assert get(stack.url + "/ips.txt")
        until(lambda: stack.metric("lbctl_connections") >= 500)
        # Those that rest are closed after client_idle_timeout_s, the others answered before.
        for end in ends:
            end.settimeout(scaled(30))
            with suppress(ConnectionError):
                while end.recv(4096):
                    pass
    until(lambda: stack.metric("lbctl_connections") < 50)


def test_a_client_that_leaves_after_any_byte(stack: Cli) -> None:
    body = b"5\r\nhello\r\n0\r\n\r\n"
    sent = request("/", "Transfer-Encoding: chunked", method="POST", body=body) + request("/")
    for cut in range(1, len(sent) + 1):
        for reset in (False, True):
            end = connected(stack)
            with suppress(ConnectionError):
                end.sendall(sent[:cut])
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.close()
    assert get(stack.url + "/ips.txt")


def test_a_body_that_is_never_sent_is_not_waited_for_by_others(stack: Cli) -> None:
    with ExitStack() as opened:
        for _ in range(100):
            end = opened.enter_context(closing(connected(stack)))
            end.sendall(request("/", "Content-Length: 1000000000", method="PUT"))
        counts = Counter(status(said(stack, request("/ips.txt"))) for _ in range(50))
        assert counts == {200: 50}
