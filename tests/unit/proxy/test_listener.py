"""Taking connections: fairly, within limits, and whatever another worker does."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from lbctl.config import Config, Limits
from lbctl.process.board import Board
from lbctl.proxy.forwarder import Forwarder
from lbctl.proxy.listener import Listener
from tests.support.deadlines import eventually, scaled
from tests.support.scripted import loopback, proxied

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def _work(seat: int, listening: socket.socket, board: Board) -> None:
    async def run() -> None:
        forwarder = Forwarder(Config())

        def others() -> list[int]:
            board.write(seat, len(forwarder.downstreams))
            return board.others(seat)

        Listener(forwarder, [listening], others).start()
        while True:
            others()
            await asyncio.sleep(0.05)

    uvloop.run(run())


@contextmanager
def workers(count: int, listening: socket.socket) -> Iterator[tuple[list[int], Board]]:
    """Processes that accept from one socket and answer 503; gives their pids."""
    board = Board(count)
    pids = []
    for seat in range(count):
        pid = os.fork()
        if not pid:
            try:
                _work(seat, listening, board)
            finally:
                os._exit(1)
        pids.append(pid)
    try:
        yield pids, board
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _connections(board: Board, seats: int) -> list[int]:
    """Of each worker, seen from a seat that nobody has."""
    return board.others(-1)[:seats]


def _until(check: object, within: float = 10.0) -> None:
    assert callable(check)
    end = time.monotonic() + scaled(within)
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_thousand_connections_spread_over_the_workers() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    clients: list[socket.socket] = []
    with loopback() as listening, workers(2, listening) as (_, board):
        _until(lambda: len(_connections(board, 2)) == 2)
        try:
            address = listening.getsockname()
            clients.extend(socket.create_connection(address) for _ in range(1000))
            _until(lambda: sum(_connections(board, 2)) == 1000)
            for count in _connections(board, 2):
                assert abs(count - 500) <= 100
        finally:
            for one in clients:
                one.close()


def test_a_worker_that_hangs_delays_nobody() -> None:
    with loopback() as listening, workers(2, listening) as (pids, board):
        _until(lambda: len(_connections(board, 2)) == 2)
        os.kill(pids[0], signal.SIGSTOP)  # it keeps its place, with the fewest connections
        clients: list[socket.socket] = []
        waited_s = []
        try:
            for _ in range(50):
                started = time.monotonic()
                client = socket.create_connection(listening.getsockname(), timeout=scaled(5))
                clients.append(client)
                client.send(REQUEST)
                assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
                waited_s.append(time.monotonic() - started)
        finally:
            for one in clients:
                one.close()
        # Nearly all, because this machine itself may hang for so long.
        assert sorted(waited_s)[45] < scaled(0.1)


async def test_who_is_ahead_takes_a_connection_that_nobody_else_wants() -> None:
    async with proxied([]) as (proxy, _):
        proxy.others = [0]
        for _ in range(10):
            client = await proxy.client()
            await client.get()
            assert (await client.reply()).status == 503
        assert len(proxy.forwarder.downstreams) == 10


async def test_a_full_worker_leaves_connections_alone_until_one_ends() -> None:
    async with proxied([], limits=Limits(connections_per_worker=2)) as (proxy, _):
        one, two, three = [await proxy.client() for _ in range(3)]
        for client in (one, two):
            await client.get()
            assert (await client.reply()).status == 503
        await three.get()
        await one.get()
        assert (await one.reply()).status == 503
        assert len(proxy.forwarder.downstreams) == 2
        two.close()
        assert (await three.reply()).status == 503


@contextmanager
def no_more_files() -> Iterator[None]:
    """Take every file that this process may still open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_out_of_files_it_takes_connections_again_as_soon_as_there_are_some() -> None:
    async with proxied([]) as (proxy, _):
        with socket.socket() as end, no_more_files():
            end.connect(("127.0.0.1", proxy.port))
            renewed = proxy.forwarder.deadlines.now + 1.5
            await eventually(lambda: proxy.forwarder.deadlines.now > renewed)
            assert not proxy.forwarder.downstreams
        client = await proxy.client()
        await client.get()
        assert (await client.reply()).status == 503


async def test_where_files_are_few_connections_are_too(caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_000, before[1]))
    try:
        async with proxied([]):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [record.message for record in caplog.records] == [
        "1000 open files allow for 411 connections, not 10000"
    ]


async def test_after_stop_connections_wait_for_others_and_clients_stay() -> None:
    async with proxied([]) as (proxy, _):
        client = await proxy.client()
        await client.get()
        await client.reply()
        proxy.listener.stop()
        waiting = await proxy.client()
        await waiting.get()
        await client.get()
        assert (await client.reply()).status == 503
        assert len(proxy.forwarder.downstreams) == 1
        proxy.listener.start()
        assert (await waiting.reply()).status == 503


async def test_a_connection_that_was_taken_in_the_turn_of_stop_starts_nothing_again() -> None:
    async with proxied([]) as (proxy, _):
        proxy.listener.stop()
        stopped = asyncio.Event()

        def others() -> list[int]:
            """Asked when connections were taken: somebody has fewer; and stop() comes just then."""
            if len(proxy.forwarder.downstreams) < 5:
                return []
            if not stopped.is_set():
                listener.stop()
                stopped.set()
            return [0]

        listener = Listener(proxy.forwarder, [proxy.socket], others)
        listener.start()
        try:
            for _ in range(5):
                await proxy.client()
            await eventually(stopped.is_set)
            await proxy.client()
            judged = proxy.forwarder.deadlines.now + 0.5
            await eventually(lambda: proxy.forwarder.deadlines.now > judged)
            assert len(proxy.forwarder.downstreams) == 5
        finally:
            listener.stop()
