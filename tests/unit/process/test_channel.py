"""The supervisor's end of its channel, and what must not end a supervisor."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from lbctl.process import wire
from lbctl.process.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeOwner:
    """Knows which socket is watched, and what was asked."""

    def __init__(self) -> None:
        self.ready: Callable[[], None] | None = None
        self.asked: list[tuple[str, Any]] = []

    def watch(self, one: socket.socket, events: int, ready: Callable[[], None]) -> None:
        assert one.fileno() >= 0, "a closed socket must not be watched, nor unwatched"
        self.ready = ready if events else None

    def run_program(self, wish: dict[str, Any]) -> str:
        self.asked.append(("run", wish["name"]))
        return "it runs already" if wish["name"] == "twin" else ""

    def stop_program(
        self, name: str, number: int, grace_s: float, done: Callable[[], None]
    ) -> None:
        self.asked.append(("stop", (name, number, grace_s)))
        done()

    def reload(self, done: Callable[[str], None]) -> None:
        self.asked.append(("reload", None))
        done("the new workers do not serve")


def pair() -> tuple[FakeOwner, Channel, socket.socket]:
    ours, theirs = socket.socketpair()
    owner = FakeOwner()
    return owner, Channel(owner, owner.watch, ours), theirs


def answers(end: socket.socket) -> list[dict[str, Any]]:
    return [json.loads(line) for line in end.recv(65_536).splitlines()]


def test_wishes_are_answered_by_number() -> None:
    owner, channel, theirs = pair()
    with theirs:
        theirs.sendall(b'{"id": 1, "run": {"name": "one"}}\n{"id": 2, "run": {"name": "tw')
        assert owner.ready is not None
        owner.ready()
        theirs.sendall(b'in"}}\n{"id": 3, "stop": {"name": "one", "signal": 3, "grace_s": 5}}\n')
        owner.ready()
        assert answers(theirs) == [
            {"id": 1, "error": ""},
            {"id": 2, "error": "it runs already"},
            {"id": 3, "error": ""},
        ]
        assert owner.asked[-1] == ("stop", ("one", 3, 5.0))
        channel.close()


def test_what_becomes_of_a_reload_is_told() -> None:
    owner, channel, theirs = pair()
    with theirs:
        theirs.sendall(wire.encode({"id": 9, "reload": {}}))
        assert owner.ready is not None
        owner.ready()
        assert owner.asked == [("reload", None)]
        answer = wire.decode(theirs.recv(4096))
        assert answer == {"id": 9, "error": "the new workers do not serve"}
        channel.close()


def test_a_controller_that_is_gone_is_no_error() -> None:
    owner, channel, theirs = pair()
    theirs.close()
    channel.send({"processes": []})
    assert owner.ready is not None
    owner.ready()
    channel.close()


def test_an_event_for_a_channel_that_was_closed_in_the_same_turn_is_dropped() -> None:
    owner, channel, theirs = pair()
    with theirs:
        late = owner.ready
        assert late is not None
        channel.close()
        late()
        assert owner.ready is None
