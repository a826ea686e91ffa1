"""TLS on the local runtime, as clients and as its keeper have it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lbctl.paths import WORKER_UID
from tests.support.cli import WRK, Cli, free_port, get
from tests.support.deadlines import scaled, until
from tests.support.pairs import OPENSSL, Made, make, trusting

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")

TESTSSL = os.environ.get("LBCTL_TESTSSL") or shutil.which("testssl.sh") or shutil.which("testssl")
SECONDS = 8
CONNECTIONS = 32


@dataclass
class Stack:
    """A local stack that speaks TLS, with its directory of pairs."""

    cli: Cli
    directory: Path
    port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def put(self, name: str, made: Made) -> None:
        made.put(self.directory, name)

    def get(self, host: str, made: Made, path: str = "/ips.txt") -> str:
        """As a client that trusts this certificate and no other; raises OSError."""
        with self.connected(host, made) as end:
            asked = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            end.sendall(asked.encode())
            answer = b""
            while data := end.recv(65_536):
                answer += data
        return answer.decode()

    @contextlib.contextmanager
    def connected(self, host: str, made: Made) -> Iterator[ssl.SSLSocket]:
        with (
            socket.create_connection(("127.0.0.1", self.port), scaled(10)) as plain,
            trusting(made).wrap_socket(
                plain, server_hostname=host, suppress_ragged_eofs=False
            ) as end,
        ):
            yield end

    def shows(self, host: str, made: Made) -> bool:
        with contextlib.suppress(ssl.SSLError):
            return self.get(host, made).startswith("HTTP/1.1 200 ")
        return False

    def expiry(self, name: str) -> float:
        text = get(f"{self.cli.admin_url}/metrics")
        series = "lbctl_tls_certificate_expiry_timestamp_seconds"
        (found,) = re.findall(rf'^{series}{{name="{name}"}} (\S+)$', text, re.MULTILINE)
        return float(found)

    def said(self, words: str) -> int:
        return sum(words in line for line in self.cli.logged().splitlines() if "control" in line)


@contextlib.contextmanager
def started(directory: Path, *arguments: str, **settings: str) -> Iterator[Stack]:
    port = free_port()
    cli = Cli(
        f"t{os.urandom(4).hex()}",
        "local",
        settings={"LBCTL_WORKERS": "2", "LBCTL_TLS_PORT": str(port), **settings},
    )
    try:
        cli.ok("up", "--tls-dir", str(directory), *arguments)
        yield Stack(cli, directory, port)
    finally:
        cli.clean()


@pytest.fixture(scope="module")
def pairs() -> dict[str, Made]:
    return {"a": make("a.test", "*.wild.test"), "b": make("b.test", key="rsa")}


@pytest.fixture
def stack(tmp_path: Path, pairs: dict[str, Made]) -> Iterator[Stack]:
    for name, made in pairs.items():
        made.put(tmp_path, name)
    with started(tmp_path) as stack:
        yield stack


def test_tls_beside_plain_http(stack: Stack, pairs: dict[str, Made]) -> None:
    listed = get(f"{stack.cli.url}/ips.txt")
    for host, name in (("a.test", "a"), ("x.wild.test", "a"), ("b.test", "b")):
        assert stack.get(host, pairs[name]).endswith(f"\r\n\r\n{listed}")
    with pytest.raises(ssl.SSLError):
        stack.get("b.test", pairs["a"])
    assert stack.expiry("a") > 0
    out = stack.cli.ok("up", "--tls-dir", str(stack.directory))  # again: no change
    assert f"TLS      {stack.url}" in out
    counted = 'lbctl_refused_total{reason="tls"} 1.0'  # the client that did not like what it got
    until(lambda: counted in get(f"{stack.cli.admin_url}/metrics"))
    doctor = stack.cli("doctor")
    assert "certificate a" in doctor.out
    assert "for a.test, *.wild.test" in doctor.out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's workers are others")
def test_workers_serve_with_keys_that_they_cannot_read(stack: Stack) -> None:
    assert {path.stat().st_mode & 0o777 for path in stack.directory.glob("*.key")} == {0o600}
    for pid in stack.cli.processes("worker"):
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(rf"^Uid:\s+{WORKER_UID}\s", status, re.MULTILINE)
        opened = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
        assert not any("pem" in one or ".key" in one for one in opened)


def test_new_files_reach_clients_and_cost_no_request(stack: Stack, pairs: dict[str, Made]) -> None:
    newer = make("a.test", days=300)
    workers = set(stack.cli.processes("worker"))
    controller = stack.cli.processes("controller")
    before = stack.expiry("a")
    load = Loads(stack)
    stack.put("a", newer)
    until(lambda: stack.shows("a.test", newer))
    until(lambda: not workers & set(stack.cli.processes("worker")))
    # One that drains takes what had come to it before it was told.
    until(lambda: not stack.shows("a.test", pairs["a"]))
    assert stack.shows("b.test", pairs["b"])
    until(lambda: stack.expiry("a") > before)
    assert stack.cli.processes("controller") == controller
    load.finish()


class Loads:
    """On TLS, by connections that stay (wrk) and by ones that are new (a loop of our own)."""

    def __init__(self, stack: Stack) -> None:
        wrk = [*WRK, f"-c{CONNECTIONS}", f"-d{SECONDS}s", stack.url + "/"]
        self._process = subprocess.Popen(wrk, stdout=subprocess.PIPE, text=True)

    def finish(self) -> None:
        text, _ = self._process.communicate(timeout=scaled(60))
        assert self._process.returncode == 0, text
        assert "Non-2xx" not in text, text
        assert "Socket errors" not in text, text
        requests = re.search(r"(\d+) requests in", text)
        assert requests is not None
        assert int(requests[1]) > 100, text


def test_a_pair_that_cannot_be_used_leaves_the_old_one(
    stack: Stack, pairs: dict[str, Made]
) -> None:
    workers = set(stack.cli.processes("worker"))
    (stack.directory / "b.key").write_bytes(pairs["a"].key)
    until(lambda: stack.said("the key is not that of the certificate") == 1)
    assert stack.shows("b.test", pairs["b"])
    # Another one is taken all the same, and the fault is not told again.
    newer = make("a.test")
    stack.put("a", newer)
    until(lambda: stack.shows("a.test", newer))
    until(lambda: not workers & set(stack.cli.processes("worker")))
    stack.cli.ok("reload")
    assert stack.shows("b.test", pairs["b"])
    assert stack.said("the key is not that of the certificate") == 1
    # A worker that is started again has what the others have.
    victim = stack.cli.processes("worker")[0]
    os.kill(victim, 9)
    until(lambda: len(set(stack.cli.processes("worker")) - {victim}) == 2)
    for _ in range(8):
        assert stack.shows("b.test", pairs["b"])
    stack.put("b", pairs["b"])
    until(partial(stack.shows, "b.test", pairs["b"]))


def test_what_cannot_be_served_is_not_started(tmp_path: Path, pairs: dict[str, Made]) -> None:
    pairs["a"].put(tmp_path, "a")
    (tmp_path / "a.key").write_bytes(pairs["b"].key)
    cli = Cli(f"t{os.urandom(4).hex()}", "local", settings={"LBCTL_TLS_PORT": str(free_port())})
    try:
        result = cli("up", "--tls-dir", str(tmp_path))
        assert result.status == 1
        assert "the key is not that of the certificate" in result.err
        result = cli("up", "--tls-dir", str(tmp_path), "--tls-cert", "x")
        assert result.status == 2
        assert "give one of them" in result.err
        result = cli("up", "--tls-dir", str(tmp_path), "--tls-port", str(cli.port))
        assert result.status == 2
        assert f"--port and --tls-port are both {cli.port}" in result.err
    finally:
        cli.clean()


def test_redirect_and_hsts(tmp_path: Path, pairs: dict[str, Made]) -> None:
    pairs["a"].put(tmp_path, "a")
    with started(tmp_path, "--tls-redirect", "on", "--hsts-s", "60") as stack:
        plain = socket.create_connection(("127.0.0.1", stack.cli.port), scaled(10))
        with plain:
            plain.sendall(b"GET /x?y=z HTTP/1.0\r\nHost: a.test:80\r\n\r\n")
            answer = b""
            while data := plain.recv(4096):
                answer += data
        assert answer.startswith(b"HTTP/1.1 308 ")
        assert f"\r\nLocation: https://a.test:{stack.port}/x?y=z\r\n".encode() in answer
        assert b"Strict-Transport-Security" not in answer
        assert "\r\nStrict-Transport-Security: max-age=60\r\n" in stack.get("a.test", pairs["a"])
        # Off again while it runs.
        stack.cli.ok("reload", "--tls-redirect", "off", "--hsts-s", "0")
        assert get(f"{stack.cli.url}/ips.txt")
        assert "Strict-Transport-Security" not in stack.get("a.test", pairs["a"])


def test_slow_handshakes_and_garbage_harm_nobody(tmp_path: Path, pairs: dict[str, Made]) -> None:
    pairs["a"].put(tmp_path, "a")
    with started(tmp_path, LBCTL_TLS_HANDSHAKE_TIMEOUT_S="2") as stack:
        load = Loads(stack)
        slow = [socket.create_connection(("127.0.0.1", stack.port)) for _ in range(300)]
        for number, one in enumerate(slow):
            one.settimeout(scaled(10))
            if number % 3 == 1:
                one.sendall(b"\x16\x03\x01\x02\x00\x01")
            elif number % 3 == 2:
                one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for one in slow:
            with contextlib.suppress(ConnectionError):
                while one.recv(4096):
                    pass
            one.close()
        load.finish()
        until(lambda: stack.cli.metric("lbctl_refused_total") == 300)
        assert stack.said("Traceback") == 0


def test_a_worker_that_is_to_go_answers_and_says_so(stack: Stack, pairs: dict[str, Made]) -> None:
    with stack.connected("a.test", pairs["a"]) as end, end.makefile("rb") as answers:
        told = False
        for number in range(100_000):
            if number == 10:
                os.kill(stack.cli.processes("supervisor")[0], signal.SIGHUP)
            end.sendall(b"GET /ips.txt HTTP/1.1\r\nHost: a.test\r\n\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = answers.readline()
                assert line, f"ended behind {head!r}"
                head += line
            assert head.startswith(b"HTTP/1.1 200 ")
            length = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
            assert length is not None
            answers.read(int(length[1]))
            told = b"\r\nConnection: close\r\n" in head
            if told:
                break
        assert told
        assert answers.read() == b""  # an end that TLS says: else it were an error


@pytest.mark.slow
@pytest.mark.skipif(TESTSSL is None, reason="no testssl.sh: name it by LBCTL_TESTSSL")
def test_testssl_finds_no_weakness(stack: Stack, tmp_path: Path) -> None:
    """What it says of the certificate is about ours, which is self-signed."""
    assert TESTSSL is not None
    report = tmp_path / "report.csv"
    done = subprocess.run(
        [
            TESTSSL, "--quiet", "--warnings", "batch", "--color", "0", "--nodns", "none",
            "--ip", "127.0.0.1", "-p", "-s", "-f", "-S", "-U", "--csvfile", str(report),
            f"https://a.test:{stack.port}",
        ],
        capture_output=True, text=True, check=False, timeout=scaled(900),
    )  # fmt: skip
    found = [line.split('","') for line in report.read_text().splitlines()[1:]]
    assert len(found) > 50, done.stdout
    # Nor is OpenSSL 3.0's lack of hybrid key exchange of our making.
    about_ours = ("cert_", "OCSP", "scan", "DNS", "QUIC", "FS_KEMs")
    weak = [
        row
        for row in found
        if row[3] in ("LOW", "MEDIUM", "HIGH", "CRITICAL")
        and not row[0].strip('"').startswith(about_ours)
    ]
    assert weak == []
