"""Limits of client networks on the running product: over workers, deaths and reloads."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

from tests.support.deadlines import scaled, until

if TYPE_CHECKING:
    from tests.support.cli import Cli

REQUEST = b"GET /ips.txt HTTP/1.1\r\nHost: site\r\n\r\n"


def connected(cli: Cli) -> socket.socket:
    return socket.create_connection(("127.0.0.1", cli.port), timeout=scaled(5))


def status_of(connection: socket.socket) -> int:
    """Of one request on it; 0 where there is no answer."""
    try:
        connection.sendall(REQUEST)
        return int(connection.recv(65_536).partition(b" ")[2][:3] or b"0")
    except ConnectionError:
        return 0


def statuses(cli: Cli, connections: int, requests: int) -> Counter[int]:
    """Of that many requests on each of that many connections, which the workers share."""
    with ExitStack() as opened:
        ends = [opened.enter_context(closing(connected(cli))) for _ in range(connections)]
        return Counter(status_of(end) for _ in range(requests) for end in ends)


def test_the_rate_is_exact_over_workers_deaths_and_reloads(cli: Cli) -> None:
    cli.settings |= {"LBCTL_RATE_LIMIT": "0.01", "LBCTL_RATE_BURST": "50"}
    cli.ok("up")
    # `up` has asked for the list itself.
    assert statuses(cli, connections=20, requests=4) == {200: 49, 429: 31}
    until(lambda: cli.metric("lbctl_refused_total") == 31)

    for victim in cli.processes("worker"):
        os.kill(victim, signal.SIGKILL)
        until(partial(_replaced, cli, victim))
    assert statuses(cli, connections=4, requests=1) == {429: 4}

    before = cli.processes("worker")
    cli.ok("reload")
    until(lambda: not set(before) & set(cli.processes("worker")))
    assert set(statuses(cli, connections=4, requests=1)) == {429}

    del cli.settings["LBCTL_RATE_LIMIT"]
    cli.ok("up")
    assert statuses(cli, connections=4, requests=5) == {200: 20}


def _replaced(cli: Cli, victim: int) -> bool:
    workers = cli.processes("worker")
    return len(workers) == 2 and victim not in workers


def test_connections_count_over_workers_and_those_of_a_dead_one_do_not_stay(cli: Cli) -> None:
    cli.settings["LBCTL_CLIENT_CONNECTIONS"] = "20"
    cli.ok("up")
    until(lambda: cli.metric("lbctl_connections") < 10)
    with ExitStack() as opened:

        def came() -> int:
            """One more, for good; its status."""
            return status_of(opened.enter_context(closing(connected(cli))))

        assert [came() for _ in range(30)] == [200] * 20 + [503] * 10
        until(lambda: cli.metric("lbctl_refused_total") == 10)
        victim = cli.processes("worker")[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: came() == 200)


def test_who_may_not_come_is_told_so_and_the_stack_is_well(cli: Cli) -> None:
    cli.settings["LBCTL_DENY_NETWORKS"] = "127.0.0.0/8"
    assert "403 Forbidden: denied" in cli.ok("up")
    assert statuses(cli, connections=5, requests=1) == {403: 5}
    until(lambda: cli.metric("lbctl_refused_total") == 6)
    assert len(cli.backends()) == 3
    cli.settings["LBCTL_DENY_NETWORKS"] = ""
    cli.settings["LBCTL_ALLOW_NETWORKS"] = "127.0.0.1"
    cli.ok("up")
    assert statuses(cli, connections=5, requests=1) == {200: 5}
    assert cli("up", "--allow-networks", "127.0.0.1/8").status == 2
