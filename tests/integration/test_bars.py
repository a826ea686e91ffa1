"""What takes long shows how far it is: on a real terminal, of a real stack."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.deadlines import scaled, until
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cli import Cli

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # else it might still read
GET = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"


@pytest.fixture
def stack(cli: Cli) -> Cli:
    cli.ok("up")
    return cli


def terminal(stack: Cli, *arguments: str) -> Terminal:
    environment = {"TERM": "xterm-256color", "LANG": "C.UTF-8"} | stack.environment
    return Terminal([sys.executable, "-m", "lbctl", *arguments], environment, columns=100)


def bars(shown: Terminal, title: str) -> list[str]:
    """What stood beside the bars of that title, each once."""
    found = re.findall(rf"{title}  [━╌]+  ([^\r\n]*)[\r\n]", shown.text)
    return list(dict.fromkeys(found))


@contextlib.contextmanager
def one_in_flight(stack: Cli) -> Iterator[tuple[dict[str, Any], socket.socket]]:
    """A backend that takes long for an answer, and the client that waits for it."""
    for row in stack.backends():
        home = stack.state / stack.project / "backends" / row["name"]
        conf = home / "nginx.conf"
        slow = "limit_rate 1; try_files $list =404;"
        conf.write_text(conf.read_text().replace("try_files $list =404;", slow))
        os.kill(int((home / "nginx.pid").read_text()), signal.SIGHUP)

    def busy() -> list[dict[str, Any]]:
        return [row for row in stack.backends() if row["in_flight"]]

    with contextlib.ExitStack() as clients:

        def waiting() -> list[socket.socket]:
            """Another client, if its answer is a slow one: the settings are in force."""
            one = clients.enter_context(socket.create_connection(("127.0.0.1", stack.port)))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            one.sendall(GET)
            answered, _, _ = select.select([one], [], [], scaled(0.5))
            return [] if answered else [one]

        (client,) = until(waiting)
        (row,) = until(busy)
        yield row, client


def test_scaling_and_reloading(stack: Cli) -> None:
    with terminal(stack, "scale", "5") as scaling:
        assert scaling.end() == 0
    assert "3 of 5" in bars(scaling, "backends in rotation")
    with terminal(stack, "reload") as reloading:
        assert reloading.end() == 0
    assert "lbs: 0 of 1" in bars(reloading, "reloading")


def test_what_takes_its_time_shows_the_time(stack: Cli) -> None:
    with terminal(stack, "token", "rotate") as rotating:
        assert rotating.end() == 0
    first, *more = bars(rotating, "rotating the tokens")
    assert first == "0 of at least 2 s"
    assert more
    with terminal(stack, "bench", "--seconds", "2") as loading:
        assert loading.end() == 0
    first, *more = bars(loading, "wrk for 2 s")
    assert first == "0 of 2 s"
    assert more


def test_a_drain_shows_what_is_still_in_flight(stack: Cli) -> None:
    with one_in_flight(stack) as (busy, client):
        name = busy["name"]
        with terminal(stack, "drain", name) as draining:
            draining.wait(lambda shown: "requests in flight: 1" in shown.text)
            client.close()
            assert draining.end() == 0
    assert bars(draining, f"drain {name}") == ["requests in flight: 1"]
    assert draining.text.splitlines()[-1].endswith(f"{name} is drained, and on no list")


def test_an_end_shows_who_is_left(stack: Cli) -> None:
    with one_in_flight(stack) as (_, client), terminal(stack, "down") as ending:
        ending.wait(lambda shown: len(bars(shown, "ending")) >= 2)
        client.close()
        assert ending.end() == 0
    assert bars(ending, "ending")[0].startswith("processes: 0 of ")
