"""What a supervisor holds."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.config import Config, Tls
from lbctl.errors import OperationError
from lbctl.paths import Paths
from lbctl.process import holdings
from tests.support.cli import free_port
from tests.support.deadlines import scaled

if TYPE_CHECKING:
    from pathlib import Path

    from lbctl.process.holdings import Sockets


def lock_in_another_process(paths: Paths) -> str:
    """ "" if it could be had, else the error."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            holdings.lock(paths)
        except OperationError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return pipe.read()


def test_a_lock_is_held_once_and_free_again(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "state", tmp_path / "secrets")
    held = holdings.lock(paths)
    assert "already runs" in lock_in_another_process(paths)
    holdings.tell_pid(held)
    assert paths.lock.read_text() == f"{os.getpid()}\n"
    assert paths.lock.stat().st_mode & 0o777 == 0o600
    held.close()
    assert lock_in_another_process(paths) == ""


def test_a_disk_that_is_full_or_only_read_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(tmp_path / "state", tmp_path / "secrets")
    with pytest.raises(OperationError, match=r"^cannot use .*/state: No such file"):
        holdings.share_alive(paths)
    with open("/dev/full", "a") as full:  # noqa: PTH123 - a device, not a path
        with pytest.raises(OperationError, match=r"^cannot use /dev/full: No space left on device"):
            holdings.tell_pid(full)
        monkeypatch.setattr(holdings, "_private", lambda _: full)
        with pytest.raises(OperationError, match=r"^cannot use .*/state: Invalid argument"):
            holdings.lock(paths)  # a device is not cut


def test_a_log_is_cut_past_its_limit_and_those_who_append_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdings, "_LOG_LIMIT_BYTES", 10)
    log = tmp_path / "lb.log"
    with log.open("a") as writer:
        writer.write("short\n")
        writer.flush()
        holdings.rotate(log)
        assert log.read_text() == "short\n"
        writer.write("long enough\n")
        writer.flush()
        holdings.rotate(log)
        writer.write("new\n")
        writer.flush()
    assert log.read_text() == "new\n"
    assert (tmp_path / "lb.log.1").read_text() == "short\nlong enough\n"


def test_rotating_what_is_not_there_does_nothing(tmp_path: Path) -> None:
    holdings.rotate(tmp_path / "none.log")
    assert list(tmp_path.iterdir()) == []


def shared(port: int) -> Sockets:
    config = Config(bind="127.0.0.1", port=port, admin_bind="127.0.0.1", admin_port=free_port())
    return holdings.listen(config, shared=True)


def refused(one: socket.socket) -> bool:
    with socket.socket() as client:
        return client.connect_ex(one.getsockname()) != 0


def test_two_lbs_share_an_address_and_a_leader_leaves_the_admin_port_to_the_other() -> None:
    first = shared(free_port())
    config = Config(
        bind="127.0.0.1",
        port=first.traffic[0].getsockname()[1],
        admin_bind="127.0.0.1",
        admin_port=first.admin.getsockname()[1],
    )
    second = holdings.listen(config, shared=True)
    try:
        assert refused(first.admin)
        second.leave_admin()  # its controller ended before it ever led
        for leader in (first, second, first, second):
            leader.admin.listen()
            with socket.create_connection(leader.admin.getsockname(), scaled(5)) as client:
                accepted, _ = leader.admin.accept()
                with accepted:
                    accepted.settimeout(scaled(5))
                    client.sendall(b"?")
                    # A listener that was marked as shut down would give that on to this one.
                    assert accepted.recv(1) == b"?"
            leader.leave_admin()
            assert refused(leader.admin)
    finally:
        for one in (first.admin, second.admin, *first.traffic, *second.traffic):
            one.close()


def test_an_lb_of_its_own_never_refuses() -> None:
    config = Config(
        bind="127.0.0.1", port=free_port(), admin_bind="127.0.0.1", admin_port=free_port()
    )
    alone = holdings.listen(config, shared=False)
    try:
        alone.leave_admin()
        assert not refused(alone.admin)
        with pytest.raises(OperationError, match=r"cannot listen on 127\.0\.0\.1"):
            holdings.listen(config, shared=False)
    finally:
        for one in (alone.admin, *alone.traffic):
            one.close()


def test_tls_has_a_socket_of_its_own() -> None:
    addresses: dict[str, Any] = {"bind": "127.0.0.1", "admin_bind": "127.0.0.1"}
    tls = Tls(tls_dir="certs", tls_port=free_port())
    config = Config(port=free_port(), admin_port=free_port(), tls=tls, **addresses)
    sockets = holdings.listen(config, shared=False)
    try:
        assert [one.getsockname()[1] for one in sockets.clients] == [config.port, tls.tls_port]
        assert not refused(sockets.tls[0])
        other = Config(port=free_port(), admin_port=free_port(), tls=tls, **addresses)
        with pytest.raises(OperationError, match=rf"cannot listen on 127\.0\.0\.1:{tls.tls_port}"):
            holdings.listen(other, shared=False)
    finally:
        for one in (*sockets.clients, sockets.admin):
            one.close()


def test_a_file_says_whether_it_serves(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path / "secrets", tmp_path)
    for ready in (True, True, False, False):
        holdings.keep_ready(paths, ready)
        assert paths.ready.exists() is ready


TAKES = """
import os, socket, sys
os.setgroups([]); os.setgid(64101); os.setuid(64101)
for options in (["SO_REUSEPORT"], ["SO_REUSEADDR"], ["SO_REUSEADDR", "SO_REUSEPORT"], []):
    one = socket.socket()
    for option in options:
        one.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
    try:
        one.bind(("127.0.0.1", int(sys.argv[1])))
        one.listen()
        print("listens")
    except OSError as error:
        print(error.errno)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_nobody_else_listens_on_the_admin_port_while_no_controller_leads() -> None:
    config = Config(
        bind="127.0.0.1", port=free_port(), admin_bind="127.0.0.1", admin_port=free_port()
    )
    sockets = holdings.listen(config, shared=True)
    try:
        said = subprocess.run(
            [sys.executable, "-c", TAKES, str(config.admin_port)],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        assert said == [str(errno.EADDRINUSE)] * 4
        sockets.admin.listen()
    finally:
        for one in (sockets.admin, *sockets.traffic):
            one.close()
