"""Ports that somebody else has."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from lbctl.deploy import Address
from lbctl.deploy.listening import (
    check_addresses,
    engine_finds_out,
    refuse_listened,
    refuse_published,
)
from lbctl.errors import EngineError, OperationError, UsageError
from lbctl.runtime.transport import EngineRefusedError


def wanted(port: int, host: str = "", admin_port: int = 9900) -> dict[str, Address]:
    return {"--port": Address(host, port), "--admin-port": Address("127.0.0.1", admin_port)}


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1", "::", "::1"])
def test_addresses_that_can_be(host: str) -> None:
    check_addresses(wanted(8080, host))


@pytest.mark.parametrize("host", ["localhost", "1.2.3", "1.2.3.4:80", "x\x1b"])
def test_hosts_that_are_no_address(host: str) -> None:
    with pytest.raises(UsageError, match="not an IP address"):
        check_addresses(wanted(8080, host))


@pytest.mark.parametrize(
    ("host", "refused"), [("", True), ("127.0.0.1", True), ("10.0.0.1", False)]
)
def test_one_port_for_both(host: str, refused: bool) -> None:
    if refused:
        with pytest.raises(UsageError, match="--port and --admin-port are both 9900"):
            check_addresses(wanted(9900, host))
    else:
        check_addresses(wanted(9900, host))


@pytest.mark.parametrize(
    ("published", "refused"),
    [
        ({"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, True),
        ({"IP": "10.0.0.1", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, False),
        ({"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, True),
        ({"IP": "0.0.0.0", "PrivatePort": 53, "PublicPort": 8080, "Type": "udp"}, False),
        ({"IP": "0.0.0.0", "PrivatePort": 8080, "PublicPort": 81, "Type": "tcp"}, False),
        ({"PrivatePort": 8080, "Type": "tcp"}, False),
    ],
)
def test_ports_of_containers(published: dict[str, object], refused: bool) -> None:
    containers: list[dict[str, Any]] = [
        {"Id": "c1", "Names": ["/other-lb"], "Ports": [published]},
        {"Id": "c2"},
    ]
    if refused:
        with pytest.raises(OperationError, match="port 8080 is in use by container other-lb"):
            refuse_published(wanted(8080, "127.0.0.1"), containers)
    else:
        refuse_published(wanted(8080, "127.0.0.1"), containers)


def test_ports_of_programs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("", "127.0.0.1"):
            with pytest.raises(OperationError, match=f"port {port} is in use by another program"):
                refuse_listened({"--port": Address(host, port)})
        refuse_listened({"--port": Address("127.9.9.9", port)})
    refuse_listened({"--port": Address("", port)})


def test_a_shared_port_is_taken_all_the_same() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(OperationError):
            refuse_listened({"--port": Address("127.0.0.1", server.getsockname()[1])})


def test_an_address_of_another_machine() -> None:
    with pytest.raises(UsageError, match=r"no address 192\.0\.2\.1"):
        refuse_listened({"--port": Address("192.0.2.1", 8080)})


@pytest.mark.parametrize(
    ("message", "flag"),
    [
        ("driver failed: Bind for 0.0.0.0:8080 failed: port is already allocated", "--port"),
        ("listen tcp4 127.0.0.1:9900: bind: address already in use", "--admin-port"),
    ],
)
def test_what_the_engine_finds_out(message: str, flag: str) -> None:
    with (
        pytest.raises(OperationError, match=f"is in use by another program.* {flag}$") as caught,
        engine_finds_out(wanted(8080)),
    ):
        raise EngineRefusedError("start x", 500, message)
    assert not isinstance(caught.value, EngineError)


def test_what_else_the_engine_says_stays_as_it_is() -> None:
    with (
        pytest.raises(EngineRefusedError, match="no space left"),
        engine_finds_out(wanted(8080)),
    ):
        raise EngineRefusedError("start x", 500, "no space left on device")
