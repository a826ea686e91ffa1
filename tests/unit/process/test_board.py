"""The numbers that processes share."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from lbctl.process.board import Board

if TYPE_CHECKING:
    import pytest


def test_a_seat_sees_the_others_and_not_itself() -> None:
    board = Board(3)
    assert board.others(0) == []
    board.write(0, 5)
    board.write(1, 7)
    board.write(2, 0)
    assert board.others(0) == [7, 0]
    assert board.others(1) == [5, 0]


def test_a_worker_that_ended_counts_no_more() -> None:
    board = Board(2)
    board.write(1, 7)
    board.vacate(1)
    assert board.others(0) == []


def test_a_worker_that_hangs_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10**12
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    board = Board(2)
    board.write(1, 7)
    assert board.others(0) == [7]
    now += 2 * 10**9
    assert board.others(0) == []


def test_who_is_ready_and_when_it_last_came_by() -> None:
    board = Board(2)
    assert not board.is_ready(1)
    assert board.beat_s(1) == 0.0
    before = time.monotonic()
    board.write(1, 0)
    board.tell_ready(1)
    assert board.is_ready(1)
    assert not board.is_ready(0)
    assert before <= board.beat_s(1) <= time.monotonic()
    board.vacate(1)
    assert not board.is_ready(1)
    assert board.beat_s(1) == 0.0


def test_a_forked_process_writes_to_the_same_board() -> None:
    board = Board(2)
    pid = os.fork()
    if pid == 0:
        board.write(1, 42)
        os._exit(0)
    os.waitpid(pid, 0)
    assert board.others(0) == [42]
