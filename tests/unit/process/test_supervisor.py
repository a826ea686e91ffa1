"""What a supervisor does about certificates and about ends, without a single child."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.config import Config, Tls
from lbctl.paths import Paths
from lbctl.process import controller, logs, supervisor
from lbctl.process.children import Child
from lbctl.process.crew import Crew
from lbctl.process.holdings import Sockets
from lbctl.process.supervisor import Supervisor
from lbctl.process.wire import ENDING
from tests.support.pairs import OPENSSL, make
from tests.support.scripted import loopback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine")


class NoChildren:
    """In the place of Children: it starts nobody."""

    def __init__(self, _: object) -> None:
        self.alive: list[Child] = []
        self.started: list[Child] = []
        self.ended: list[tuple[Child, int]] = []

    def start(self, child: Child) -> None:
        self.started.append(child)

    def reap(self) -> list[tuple[Child, int]]:
        return self.ended


@pytest.fixture
def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr(supervisor, "Children", NoChildren)
    monkeypatch.setattr(logs, "set_up", lambda *_: None)
    certs = tmp_path / "certs"
    certs.mkdir()
    make("a.test").put(certs, "a")
    sockets = Sockets([loopback()], loopback(), tls=[loopback()])
    monkeypatch.setattr(supervisor, "listen", lambda *_, **__: sockets)
    config = Config(workers=1, tls=Tls(tls_dir=str(certs)))
    made = Supervisor(config, Paths(tmp_path / "state", tmp_path / "secrets"), lambda: config)
    yield made
    for end in (*sockets.clients, sockets.admin, made._wake_read, made._wake_write):
        end.close()
    made._loop.close()
    made._lock.close()
    made._alive.close()


def test_a_certificate_whose_workers_did_not_serve_is_tried_again(
    it: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    crews: list[Crew] = []
    new_crew = it._new_crew

    def counted(config: Config) -> Crew:
        crews.append(new_crew(config))
        return crews[-1]

    monkeypatch.setattr(it, "_new_crew", counted)
    make("a.test").put(tmp_path / "certs", "a")
    for _ in range(4):
        it._look_at_certificates()
    assert len(crews) == 1  # none of it lives: it is given up
    assert it._next is None
    now_s += 30
    it._look_at_certificates()
    assert len(crews) == 2
    assert crews[1].credentials is not it._crew.credentials


def test_the_controllers_process_has_no_key(
    it: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []
    monkeypatch.setattr(controller, "main", lambda *what, **_: begun.append(what))
    it._theirs = it._wake_write
    assert it._crew.credentials is not None
    it._controller_body()
    assert len(begun) == 1
    assert [one.credentials for one in it._crews()] == [None]
    assert it._renewal.certificates == []


def test_who_waits_for_a_reload_hears_that_the_lb_ends(
    it: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(Crew, "alive", property(lambda crew: crew.workers))  # and never ready
    monkeypatch.setattr(Child, "signal", lambda *_: None)
    it.reload(heard.append)
    assert it._next is not None
    assert heard == []
    it._wake_write.send(bytes([signal.SIGTERM]))
    it._signalled()
    assert heard == [ENDING]
    it.reload(heard.append)
    assert heard == [ENDING, ENDING]


def test_an_lb_is_ready_when_its_controller_has_led_or_followed_once(
    it: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = Paths(tmp_path / "state", tmp_path / "secrets").ready

    def look(*, workers: bool) -> bool:
        monkeypatch.setattr(Crew, "ready", workers)
        it._keep_ready()
        return ready.exists()

    assert not look(workers=True)
    it._pulse.write(0, 0)  # its loop turns, and that is all
    assert not look(workers=True)
    it._pulse.tell_ready(0)
    assert not look(workers=False)
    assert look(workers=True)
    it._pulse.vacate(0)  # it is started again
    assert look(workers=True)
    assert not look(workers=False)


def test_who_is_killed_by_a_signal_without_a_name_is_started_again(
    it: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    (worker,) = it._crew.workers
    family = it._children
    assert isinstance(family, NoChildren)
    family.ended = [(worker, 35)]  # the wait status is the signal
    it._wake_write.send(bytes([signal.SIGCHLD]))
    it._signalled()
    assert family.started == [worker]
    assert f"{worker.name} ended (killed by signal 35)" in caplog.text


def test_the_trouble_of_one_keeps_nobody_else_away(
    it: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    (worker,) = it._crew.workers
    family = it._children
    assert isinstance(family, NoChildren)
    it._controller.on_exit = _trouble
    family.ended = [(it._controller, 0), (worker, 0)]
    it._wake_write.send(bytes([signal.SIGCHLD]))
    it._signalled()
    assert worker in family.started
    assert "this should not happen" in caplog.text


def _trouble() -> None:
    raise RuntimeError("trouble")
