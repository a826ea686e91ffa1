"""What is ready is called, what is due is done in its order, and trouble ends nothing."""

from __future__ import annotations

import selectors
import socket
from typing import TYPE_CHECKING

import pytest

from lbctl.process.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_what_is_due_is_done_in_the_order_it_was_asked_for(loop: Loop) -> None:
    done: list[int] = []
    loop.later(0.01, lambda: done.append(3))
    loop.later(0.0, lambda: done.append(1))
    loop.later(0.0, lambda: done.append(2))
    while len(done) < 3:
        loop.turn()
    assert done == [1, 2, 3]


def test_what_is_forgotten_is_not_done(loop: Loop) -> None:
    done: list[int] = []
    loop.later(0.0, lambda: done.append(1))
    loop.forget()
    loop.later(0.0, lambda: done.append(2))
    loop.turn()
    assert done == [2]


def test_a_socket_is_watched_for_what_was_asked_last_until_it_is_not(loop: Loop) -> None:
    done: list[str] = []
    one, other = socket.socketpair()
    with one, other:
        loop.watch(one, selectors.EVENT_READ, lambda: done.append("read"))
        loop.watch(one, selectors.EVENT_WRITE, lambda: done.append("write"))
        loop.turn()
        loop.watch(one, 0, lambda: None)
        loop.watch(one, 0, lambda: None)
        loop.later(0.0, lambda: done.append("later"))
        loop.turn()
    assert done == ["write", "later"]


def test_trouble_ends_nothing(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    def trouble() -> None:
        raise RuntimeError("boom")

    done: list[int] = []
    loop.later(0.0, trouble)
    loop.later(0.0, lambda: done.append(1))
    loop.turn()
    assert done == [1]
    assert "this should not happen" in caplog.text
    assert "boom" in caplog.text
