"""The logs of a busy stack: every line is as the schema says, and no secret is in any."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Cli, Wrk
from tests.support.deadlines import scaled, until
from tests.support.schema import check_line

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "s3cr3t-of-a-client"
FORGED = '"}\r\n{"log": "audit", "who": "nobody"}'


@pytest.fixture
def cli() -> Iterator[Cli]:
    settings = {"LBCTL_WORKERS": "2", "LBCTL_TRUSTED_PROXIES": "127.0.0.2"}
    one = Cli(f"t{secrets.token_hex(4)}", "local", settings=settings)
    try:
        yield one
    finally:
        one.clean()


def asked(cli: Cli, request: str, source: str = "127.0.0.1") -> bytes:
    """Everything that comes for a request, on a connection that ends with it."""
    with socket.create_connection(
        ("127.0.0.1", cli.port), timeout=scaled(5), source_address=(source, 0)
    ) as end:
        end.sendall(request.encode("latin-1"))
        end.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(ConnectionError):
            while part := end.recv(65_536):
                received += part
        return received


def request(target: str = "/", *lines: str, method: str = "GET", body: str = "") -> str:
    head = "".join(f"{line}\r\n" for line in lines)
    return f"{method} {target} HTTP/1.1\r\nHost: site\r\n{head}\r\n{body}"


def rows_of(cli: Cli) -> list[dict[str, Any]]:
    return [check_line(line) for line in cli.logged().splitlines()]


def replaced(cli: Cli, role: str, victim: int) -> bool:
    there = cli.processes(role)
    return bool(there) and victim not in there


def make_busy(cli: Cli) -> None:
    """All that a stack and its clients do, and more than they should."""
    load = Wrk(cli.url + "/?token=" + SECRET, seconds=8)
    cli.ok("scale", "5")
    for target in (
        "/",
        "/ips.json",
        "/healthz",
        "/nothing/here",
        f"/a?{SECRET}",
        "/a%0d%0a",
        '/"\\',
    ):
        asked(cli, request(target, f"Authorization: Bearer {SECRET}", f"Cookie: a={SECRET}"))
    asked(cli, request("/", "Content-Length: 18", method="POST", body=SECRET))
    asked(cli, request("/", f"X-Request-Id: {SECRET}", f"X-Forwarded-For: {SECRET}"))
    asked(cli, request(f"/{FORGED}"))
    asked(cli, request(f"/ HTTP/1.1\r\nX: {FORGED}"))
    asked(cli, request("/", f"X: {FORGED}"))
    asked(cli, request("/\xff"))
    asked(cli, request("/", method="M" * 5000))
    asked(cli, request("/" + '"' * 20_000))
    asked(cli, request("/" + "x" * 40_000))
    asked(cli, f"{SECRET}\r\n\r\n")
    asked(cli, request("/", "Upgrade: websocket", "Connection: upgrade"))
    for role in ("worker", "controller"):
        victim = cli.processes(role)[0]
        os.kill(victim, signal.SIGKILL)
        until(partial(replaced, cli, role, victim))
    [name, *_] = [row["name"] for row in cli.backends()]
    cli.ok("drain", name)
    cli.ok("undrain", name)
    cli.ok("reload")
    cli.ok("scale", "2")
    load.finish()


def test_every_line_of_a_busy_stack_is_as_the_schema_says_and_no_secret_is_in_it(cli: Cli) -> None:
    cli.ok("up")
    make_busy(cli)
    state = cli.state / cli.project
    tokens = [(state / "admin-token").read_text(), (state / "publish-secret").read_text()]
    everything = cli.logged() + cli.ok("logs", "--tail", "1000")
    everything += "".join(log.read_text() for log in state.glob("backends/*/nginx.log"))
    for secret in (*(token.strip() for token in tokens), SECRET):
        assert secret not in everything
    cli.ok("down")  # the state directory goes with it; what it says last is not seen here

    rows = [check_line(line) for line in everything.splitlines() if line.startswith("{")]
    assert {row["log"] for row in rows} >= {"access", "control"}
    roles = {row["role"].partition("-")[0] for row in rows if row["log"] == "control"}
    assert roles >= {"supervisor", "controller"}
    access = [row for row in rows if row["log"] == "access"]
    assert all("who" not in row for row in rows)  # no forged line is one
    assert {"/?", "/a?"} <= {row["target"] for row in access}
    assert Counter(row["status"] for row in access).keys() >= {200, 400, 404, 405, 414}
    ids = [row["request_id"] for row in access if row["method"] is not None]
    assert len(set(ids)) == len(ids)


def test_a_request_can_be_found_by_its_id(cli: Cli) -> None:
    cli.ok("up")
    own, given = "stranger-0", "gateway-7/a"
    asked(cli, request("/one", f"X-Request-Id: {own}"))
    asked(cli, request("/two", f"X-Request-Id: {given}", "X-Forwarded-For: 192.0.2.9"), "127.0.0.2")
    asked(cli, request("/three", "X-Forwarded-For: 192.0.2.9"), "127.0.0.2")
    until(lambda: sum(row.get("target") in ("/one", "/two", "/three") for row in rows_of(cli)) == 3)
    rows = {row["target"]: row for row in rows_of(cli) if row["log"] == "access"}
    assert rows["/one"]["request_id"] not in (own, "")
    assert rows["/one"]["client"] == "127.0.0.1"
    assert (rows["/two"]["request_id"], rows["/two"]["client"]) == (given, "192.0.2.9")
    assert rows["/three"]["request_id"] not in (given, own, "")


def test_the_level_is_heeded_by_every_process_from_a_reload_on(cli: Cli) -> None:
    cli.ok("up")
    assert any(row["log"] == "control" and row["level"] == "info" for row in rows_of(cli))
    cli.settings["LBCTL_LOG_LEVEL"] = "error"
    cli.settings["LBCTL_ACCESS_LOG_QUERY"] = "on"
    controller = cli.processes("controller")
    cli.ok("up")
    until(lambda: cli.processes("controller") not in ([], controller))
    before = len(rows_of(cli))
    cli.ok("scale", "4")
    os.kill(cli.processes("worker")[0], signal.SIGKILL)
    until(lambda: len(cli.processes("worker")) == 2)
    asked(cli, request("/found?here"))
    until(lambda: any(row.get("target") == "/found?here" for row in rows_of(cli)))
    said = [row for row in rows_of(cli)[before:] if row["log"] == "control"]
    assert all(row["level"] in ("error", "critical") for row in said), said
