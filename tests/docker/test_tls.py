"""TLS on an engine: the mounted directory, the published port, both lbs."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.docker.conftest import docker, inspect
from tests.docker.stage import Stage, new_cli, staged
from tests.support.cli import Cli, Wrk, free_port
from tests.support.deadlines import scaled, until
from tests.support.images import ensure_images
from tests.support.pairs import OPENSSL, Made, make, trusting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine"),
]


@pytest.fixture(scope="module")
def pair() -> Made:
    return make("a.test")


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    ensure_images()


@pytest.fixture
def cli(tmp_path: Path, pair: Made) -> Cli:
    pair.put(tmp_path, "a")
    return new_cli(LBCTL_TLS_PORT=str(free_port()))


@pytest.fixture
def stage(cli: Cli, tmp_path: Path) -> Iterator[Stage]:
    with staged(cli) as stage:
        assert "TLS      https://" in cli.ok("up", "--tls-dir", str(tmp_path))
        yield stage


def answer(port: int, made: Made, host: str = "a.test") -> bytes:
    """To a client that trusts this certificate alone. Raises OSError."""
    with (
        socket.create_connection(("127.0.0.1", port), scaled(10)) as plain,
        trusting(made).wrap_socket(plain, server_hostname=host) as end,
    ):
        end.sendall(b"GET /ips.txt HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        data = b""
        while part := end.recv(65_536):
            data += part
    return data


def all_show(port: int, made: Made) -> bool:
    """Whether so many connections in a row, spread over both lbs, get this certificate."""
    with contextlib.suppress(ssl.SSLError):
        return all(answer(port, made).startswith(b"HTTP/1.1 200 ") for _ in range(24))
    return False


def test_both_lbs_speak_it_and_take_new_files(stage: Stage, tmp_path: Path, pair: Made) -> None:
    port = int(stage.cli.settings["LBCTL_TLS_PORT"])
    until(stage.both_lbs)
    assert all_show(port, pair)
    lbs = [inspect(name)["Id"] for name in stage.lbs]
    for name in stage.lbs:
        mounts = {one["Destination"]: one for one in inspect(name)["Mounts"]}
        assert mounts["/etc/lbctl/tls"]["RW"] is False
        # The user that workers are reads no key.
        assert not docker(
            "exec", "-u", "64101:64101", name, "cat", "/etc/lbctl/tls/a.key", check=False
        )
    newer = make("a.test")
    load = Wrk(f"{stage.cli.url}/", seconds=8)
    newer.put(tmp_path, "a")
    until(lambda: all_show(port, newer), within=20)
    said = load.finish()
    assert said.failed == 0, said.text
    assert [inspect(name)["Id"] for name in stage.lbs] == lbs
    # New lb containers have it as well, whoever asks for them; and off is off.
    stage.cli.ok("upgrade", within=180)
    assert all_show(port, newer)
    stage.cli.ok("up", within=180)
    with pytest.raises(OSError, match=r"refused|reset"):
        answer(port, newer)


def test_what_no_lb_could_serve_starts_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.key").write_bytes(make("a.test").key)
    with staged(cli) as stage:
        result = cli("up", "--tls-dir", str(tmp_path))
        assert result.status == 1
        assert "the key is not that of the certificate" in result.err
        assert not any(stage.project.left().values())
