"""The nginx template on a real nginx, as the local runtime starts it."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.assets import NginxSite
from lbctl.core.credentials import token_of
from lbctl.model import Backend as Server
from tests.support import contract
from tests.support.contract import Backend
from tests.support.credentials import admit
from tests.support.deadlines import scaled, until
from tests.support.nginx import NGINX, RunningNginx, lay_out, running_nginx
from tests.support.schema import check_line

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = [
    pytest.mark.nginx,
    pytest.mark.skipif(NGINX is None, reason="no nginx on this machine"),
]


@pytest.fixture
def nginx() -> Iterator[RunningNginx]:
    with running_nginx("127.81.16.1") as running:
        yield running


@pytest.fixture
def backend(nginx: RunningNginx) -> Backend:
    return Backend(nginx.ip, nginx.token)


def test_starts_with_an_empty_list(backend: Backend) -> None:
    contract.check_blank(backend)


def test_public_port(backend: Backend) -> None:
    contract.check_public(backend)


def test_never_a_stale_answer(backend: Backend) -> None:
    contract.check_never_stale(backend)


def test_every_status_says_who_answers(backend: Backend) -> None:
    contract.check_every_status_is_signed(backend)


def test_admin_port(backend: Backend) -> None:
    contract.check_admin(backend)


def test_a_write_that_breaks_off_changes_nothing(backend: Backend) -> None:
    contract.check_cut_off_write(backend)


def test_a_token_counts_from_when_its_file_is_there(nginx: RunningNginx) -> None:
    backend = Backend(nginx.ip, nginx.token)
    nginx.known.unlink()
    assert backend.put(b"1.1.1.1\n").status == 401
    nginx.known.touch()
    assert backend.put(b"1.1.1.1\n").status == 204


def test_one_backends_token_opens_no_other(nginx: RunningNginx) -> None:
    """They share the directory of names."""
    with running_nginx("127.81.16.3", nginx.site.tokens) as other:
        for one, its in ((nginx, other.token), (other, nginx.token)):
            assert Backend(one.ip, one.token).put(contract.LIST).status == 204
            assert Backend(one.ip, its).put(b"6.6.6.6\n").status == 401
            assert Backend(one.ip, one.token).get("/ips.txt").body == contract.LIST


def test_what_the_directory_says_opens_nothing(nginx: RunningNginx) -> None:
    """To somebody who may list it: a name has the fingerprint of a key, and not the key."""
    [name] = [file.name for file in nginx.site.tokens.iterdir()]
    fingerprint = name.removeprefix(f"{nginx.ip}-")
    key = nginx.token.partition(".")[0]
    for other in ("0" * 64, key[:-1] + ("1" if key[-1] == "0" else "0"), "", fingerprint, name):
        assert Backend(nginx.ip, f"{other}.{fingerprint}").put(b"6.6.6.6\n").status == 401
    assert Backend(nginx.ip, nginx.token).put(contract.LIST).status == 204


def test_a_key_with_another_fingerprint_opens_nothing(nginx: RunningNginx) -> None:
    """Of another key that is known there, or in another spelling of its own bytes."""
    key, _, fingerprint = nginx.token.partition(".")
    other = token_of("0" * 64, Server("other", "other", nginx.ip))
    admit(nginx.site.tokens, other, nginx.ip)
    swapped = f"{key}.{other.partition('.')[2]}"
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    respelled = alphabet[alphabet.index(fingerprint[-1]) ^ 1]  # bits that are no byte's
    for token in (swapped, nginx.token[:-1] + respelled, f"{nginx.token},1"):
        assert Backend(nginx.ip, token).put(b"6.6.6.6\n").status == 401
    assert Backend(nginx.ip, other).put(contract.LIST).status == 204


def test_a_list_that_cannot_be_written_leaves_the_old_one(nginx: RunningNginx) -> None:
    backend = Backend(nginx.ip, nginx.token)
    assert backend.put(contract.LIST).status == 204
    nginx.list_file.unlink()
    nginx.list_file.mkdir()  # nothing can be renamed onto a directory
    assert backend.put(b"1.1.1.1\n").status in (409, 500)
    nginx.list_file.rmdir()
    assert backend.put(contract.LIST).status == 201
    assert list((nginx.site.directory / "tmp").rglob("*[0-9]")) == []


def test_readers_see_whole_lists_while_it_changes(backend: Backend) -> None:
    lists = [b"".join(b"10.%d.%d.%d\n" % (n, i, n) for i in range(200)) for n in range(1, 6)]
    assert backend.put(lists[0]).status == 204
    done = threading.Event()
    seen: set[bytes] = set()
    failures: list[Exception] = []

    def read() -> None:
        try:
            while not done.is_set():
                seen.add(backend.get("/ips.txt").body)
        except (OSError, AssertionError) as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(20):
        for body in lists:
            assert backend.put(body).status == 204
    done.set()
    for reader in readers:
        reader.join(scaled(10))
    assert not failures
    assert len(seen) > 1  # otherwise nobody read while it changed
    assert seen <= set(lists)


def test_sigquit_lets_a_slow_download_finish(nginx: RunningNginx) -> None:
    large = b"a" * (8 * contract.MEBIBYTE)  # more than the kernel takes off nginx's hands
    nginx.list_file.write_bytes(large)
    with socket.socket() as connection:
        # So little room that most of the list waits in nginx until it is read here.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.settimeout(scaled(5))
        connection.connect((nginx.ip, 8080))
        connection.sendall(b"GET /ips.txt HTTP/1.1\r\nHost: a\r\n\r\n")
        received = connection.recv(1024)
        nginx.process.send_signal(signal.SIGQUIT)
        _wait_until_refused(nginx.ip)
        assert nginx.process.poll() is None
        while piece := connection.recv(65_536):
            received += piece
    assert received.partition(b"\r\n\r\n")[2] == large
    assert nginx.process.wait(scaled(5)) == 0


def _wait_until_refused(ip: str) -> None:
    for _ in range(int(scaled(500))):
        try:
            socket.create_connection((ip, 8080), timeout=scaled(1)).close()
        except ConnectionRefusedError:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{ip} still listens")


def test_a_connection_outlives_a_thousand_requests(nginx: RunningNginx) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    with (
        socket.create_connection((nginx.ip, 8080), timeout=scaled(5)) as connection,
        connection.makefile("rb") as stream,
    ):
        for _ in range(1000):
            connection.sendall(request)
            head = b"".join(iter(stream.readline, b"\r\n"))
            assert stream.read(3) == b"ok\n"
            assert b"Connection: keep-alive" in head


def test_the_configuration_draws_no_warning(tmp_path: Path) -> None:
    assert NGINX is not None
    site = NginxSite("127.81.16.2:8080", "127.81.16.2:9000", tmp_path, tmp_path, tmp_path / "log")
    done = subprocess.run(
        [NGINX, "-t", "-c", str(lay_out(site))], capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert lines, "nginx -t says where it found the configuration in order"
    assert [line for line in lines if "[" in line] == []


def test_what_did_not_come_through_an_lb_is_logged_as_the_schema_says(nginx: RunningNginx) -> None:
    """As in a container; where nginx is a process, it logs no requests."""
    log = nginx.site.directory / "access.log"
    file = nginx.site.directory / "nginx.conf"
    text = file.read_text(encoding="utf-8")
    file.write_text(
        text.replace("access_log off;", f'access_log "{log}" json if=$came_directly;', 1),
        encoding="utf-8",
    )
    before = children(nginx.process.pid)
    nginx.process.send_signal(signal.SIGHUP)
    # One of before would answer without a line.
    until(lambda: (now := children(nginx.process.pid)) and now.isdisjoint(before))
    backend = Backend(nginx.ip, nginx.token)
    until(lambda: backend.get("/ips.txt") and log.exists() and log.stat().st_size)
    forged = '"}\n{"log": "audit'.replace("\n", "\t")
    fields = {"X-Request-Id": forged, "X-Forwarded-For": "\\", "Authorization": "Bearer secret"}
    backend.get("/a%0a%22?token=secret", fields | {"Cookie": "secret"})
    backend.get('/"\\', fields)
    backend.get("/ips.txt", fields | {"Via": "1.1 lbctl-1"})
    with socket.create_connection((nginx.ip, 8080), timeout=scaled(5)) as end:
        end.sendall(b"\x00\xff no HTTP\r\n\r\n")
        end.recv(4096)
    until(lambda: lines_of(log)[-1]["status"] == 400)  # the last of them
    assert "secret" not in log.read_text()
    rows = lines_of(log)[-3:]
    assert [row["log"] for row in rows] == ["backend"] * 3
    assert [row["target"] for row in rows] == ["/a%0a%22?", '/"\\', ""]
    assert [row["status"] for row in rows] == [404, 404, 400]
    assert rows[0]["request_id"] == forged


def children(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return {int(child) for child in listed.split()}


def lines_of(log: Path) -> list[dict[str, Any]]:
    """All that is whole; each as the schema says."""
    return [
        check_line(line) for line in log.read_text().splitlines(keepends=True) if line[-1] == "\n"
    ]
