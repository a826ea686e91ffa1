"""What workers know together of their clients: requests for good, connections while they live."""

from __future__ import annotations

import os

from lbctl.config import Config, Limits
from lbctl.process.crew import Crew
from lbctl.process.ledgers import Ledgers, Rates
from lbctl.proxy.gate import Gate

LIMITS = Limits(rate_limit=0.001, rate_burst=5, client_connections=5)


def gates(ledgers: Ledgers, seats: int) -> list[Gate]:
    return [Gate(LIMITS, ledgers.of(seat)) for seat in range(seats)]


def forked(body: object) -> None:
    """Run it in a child, to its end."""
    assert callable(body)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_processes_share_a_clients_rate() -> None:
    one, other = gates(Ledgers(Rates(), 2), 2)
    client, _ = one.client("192.0.2.7")

    def three() -> None:
        assert [one.ask(client) for _ in range(3)] == [0, 0, 0]

    forked(three)
    assert [other.ask(client) == 0 for _ in range(3)] == [True, True, False]


def test_another_crew_goes_on_where_the_last_one_was() -> None:
    rates = Rates()
    (before,) = gates(Ledgers(rates, 1), 1)
    client, _ = before.client("192.0.2.7")
    for _ in range(5):
        before.ask(client)
    (after,) = gates(Ledgers(rates, 1), 1)
    assert after.client("192.0.2.7")[0] == client
    assert after.ask(client) > 0


def test_connections_of_a_worker_that_was_killed_do_not_stay() -> None:
    config = Config(workers=2, limits=LIMITS)
    crew = Crew(config, "", Rates(), lambda *_: None)
    one, other = gates(crew.ledgers, 2)
    client, _ = one.client("192.0.2.7")

    def hold() -> None:
        assert all(one.arrive(client) for _ in range(4))

    forked(hold)
    assert other.arrive(client)
    assert not other.arrive(client)
    crew.ended(crew.workers[0])
    assert [other.arrive(client) for _ in range(5)] == [True] * 4 + [False]


def test_two_lbs_and_two_starts_hash_clients_differently() -> None:
    keys = {Gate(LIMITS, Ledgers(Rates(), 1).of(0)).client("192.0.2.7")[0] for _ in range(8)}
    assert len(keys) == 8
