"""Token buckets and connections by client, in memory of a fixed size."""

from __future__ import annotations

import random
from array import array
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.core.limits import (
    COUNT_CELLS,
    RATE_CELLS,
    WAYS,
    Admission,
    Buckets,
    Connections,
    address_of,
    client_key,
)
from lbctl.core.origin import networks

SECRET = b"s" * 16
S = 1_000_000_000


def buckets(rate: float, burst: int) -> Buckets:
    return Buckets(array("q", bytes(8 * RATE_CELLS)), rate, burst)


def key(ip: str, v4: int = 32, v6: int = 64, secret: bytes = SECRET) -> int:
    return client_key(address_of(ip), v4, v6, secret)


def same_set(count: int) -> list[int]:
    """Clients that all have the same places."""
    return [1 + n * RATE_CELLS // (2 * WAYS) for n in range(count)]


def test_a_burst_and_then_the_rate() -> None:
    table = buckets(rate=10, burst=5)
    now = 7 * S
    assert [table.take(1, now) for _ in range(5)] == [0] * 5
    assert table.take(1, now) == S // 10
    assert table.take(1, now + S // 10 - 1) == 1
    assert table.take(1, now + S // 10) == 0
    assert table.take(1, now + S // 10) == S // 10
    later = now + 10 * S
    assert [table.take(1, later) for _ in range(6)] == [0] * 5 + [S // 10]


@pytest.mark.parametrize("rate", [5e-324, 1e-300, 1e-12, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("burst", [1, 1_000_000])
def test_no_rate_and_burst_are_too_much_for_a_cell(rate: float, burst: int) -> None:
    table = buckets(rate, burst)
    now = 10 * 365 * 86_400 * S  # a machine that has not been restarted for ten years
    for _ in range(1000):
        table.take(1, now)
    if burst == 1:
        assert 0 < table.take(1, now) <= 1 << 61


def test_clients_do_not_share() -> None:
    table = buckets(rate=1, burst=1)
    assert table.take(1, S) == 0
    assert table.take(2, S) == 0
    assert table.take(1, S) == S


@given(
    st.floats(0.01, 1000),
    st.integers(1, 50),
    st.lists(st.integers(0, 3 * S), min_size=1, max_size=200),
)
def test_it_is_a_token_bucket(rate: float, burst: int, pauses: list[int]) -> None:
    """Beside one that is written down as the textbook has it."""
    table = buckets(rate, burst)
    interval = int(S / rate)
    now, tokens, since = S, burst * interval, S
    for pause in pauses:
        now += pause
        tokens, since = min(burst * interval, tokens + now - since), now
        wait = table.take(1, now)
        assert (wait == 0) == (tokens >= interval)
        if wait:
            assert wait == interval - tokens
        else:
            tokens -= interval


def test_a_flood_of_new_clients_frees_nobody_who_is_limited() -> None:
    table = buckets(rate=1, burst=5)
    flood = random.Random(1)
    limited = 12345
    for _ in range(5):
        assert table.take(limited, S) == 0
    for _ in range(200_000):  # three times as many as there are places
        table.take(flood.getrandbits(63), S)
    assert table.take(limited, S) > 0


def test_a_newcomer_never_pays_for_others() -> None:
    """Not even where all of its places are taken by clients that are limited."""
    table = buckets(rate=1, burst=3)
    clients = same_set(4 * WAYS)
    for client in clients:
        assert [table.take(client, S) for _ in range(3)] == [0, 0, 0]


def test_who_is_forgotten_had_the_least_to_wait() -> None:
    table = buckets(rate=1, burst=10)
    *clients, newcomer = same_set(WAYS + 1)
    for number, client in enumerate(clients):
        for _ in range(number + 1):
            assert table.take(client, S) == 0
    table.take(newcomer, S)
    taken = dict.fromkeys(clients[1:], 0)
    for client in taken:
        while not table.take(client, S):
            taken[client] += 1
    assert taken == {client: 10 - (n + 1) for n, client in enumerate(clients) if n}


def test_nobody_waits_longer_than_under_the_present_rate() -> None:
    cells = array("q", bytes(8 * RATE_CELLS))
    slow = Buckets(cells, 0.001, 10)
    for _ in range(10):
        slow.take(1, S)
    assert slow.take(1, S) == 1000 * S
    fast = Buckets(cells, 10, 10)
    assert fast.take(1, S) == S // 10
    assert fast.take(1, S + S // 10) == 0


def test_two_processes_share_one_bucket() -> None:
    cells = array("q", bytes(8 * RATE_CELLS))
    one, other = Buckets(cells, 1, 4), Buckets(cells, 1, 4)
    assert [(one if n % 2 else other).take(1, S) for n in range(5)] == [0, 0, 0, 0, S]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "no address", True),
        ("", "0.0.0.0", False),
    ],
)
def test_a_client_is_a_network(one: str, other: str, same: bool) -> None:
    assert (key(one) == key(other)) is same


def test_networks_may_be_of_any_size() -> None:
    assert key("192.0.2.1", v4=24) == key("192.0.2.2", v4=24) != key("192.0.3.2", v4=24)
    assert key("192.0.2.1", v4=0) == key("203.0.113.9", v4=0) != key("::1", v6=0)
    assert key("2001:db8::1", v6=128) != key("2001:db8::2", v6=128)


def test_nobody_can_tell_a_key_without_the_secret() -> None:
    assert key("192.0.2.1") != key("192.0.2.1", secret=b"t" * 16)
    assert 0 < key("192.0.2.1") < 1 << 63


@pytest.mark.parametrize(
    ("allowed", "denied", "ip", "admitted"),
    [
        ("", "", "192.0.2.1", True),
        ("192.0.2.0/24", "", "192.0.2.1", True),
        ("192.0.2.0/24", "", "198.51.100.1", False),
        ("192.0.2.0/24", "", "2001:db8::1", False),
        ("192.0.2.0/24", "", "::ffff:192.0.2.1", True),
        ("", "192.0.2.0/24", "192.0.2.1", False),
        ("", "192.0.2.0/24", "::ffff:192.0.2.1", False),
        ("", "192.0.2.0/24", "198.51.100.1", True),
        ("192.0.2.0/24", "192.0.2.7", "192.0.2.7", False),  # to deny wins, whichever is narrower
        ("192.0.2.7", "192.0.2.0/24", "192.0.2.7", False),
        ("192.0.2.0/24", "", "", False),
        ("", "192.0.2.0/24", "", True),
    ],
)
def test_who_may_come(allowed: str, denied: str, ip: str, admitted: bool) -> None:
    admission = Admission(networks(allowed), networks(denied))
    assert admission.admits(address_of(ip)) is admitted


@given(st.lists(st.tuples(st.integers(1, 2**63 - 1), st.integers(0, 2)), max_size=100), st.data())
def test_connections_are_never_counted_too_few(
    came: list[tuple[int, int]], data: st.DataObject
) -> None:
    columns: list[dict[int, int]] = [defaultdict(int) for _ in range(3)]
    workers = [Connections(columns, own) for own in range(3)]
    for client, worker in came:
        workers[worker].add(client)
    left = data.draw(st.lists(st.sampled_from(came), unique_by=id)) if came else []
    for client, worker in left:
        workers[worker].remove(client)
    there = Counter(client for client, _ in came)
    there.subtract(client for client, _ in left)
    for client, count in there.items():
        assert workers[0].of(client) >= count


def test_connections_of_thousands_of_clients_are_told_apart() -> None:
    columns = [array("i", bytes(4 * COUNT_CELLS)) for _ in range(2)]
    worker, other = Connections(columns, 0), Connections(columns, 1)
    chance = random.Random(2)
    clients = [chance.getrandbits(63) for _ in range(10_000)]
    for client in clients:
        worker.add(client)
        other.add(client)
    counted = [worker.of(client) for client in clients]
    assert min(counted) == 2
    assert sum(count > 2 for count in counted) < 1000  # in expectation 690
    assert max(counted) < 12
    for client in clients:
        worker.remove(client)
        other.remove(client)
    assert not any(columns[0])
    assert not any(columns[1])
