"""benchmarks/faults/peers.py: what an advised operator has and a plain one has not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmarks.faults.peers import LABEL, Peer, PeerStack, haproxy, traefik

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ADDRESSES = ["10.0.0.2", "10.0.0.3"]


def configuration(peer: Peer) -> str:
    """All of it, wherever it is written."""
    labels = [f"{name}={value}" for name, value in peer.labels.items()]
    files = peer.files(ADDRESSES)
    return "\n".join([*peer.argv, *peer.more("mine"), *labels, *files.values()])


@pytest.mark.parametrize("advised", [False, True])
def test_haproxy_has_lbctls_checks_on_every_server(*, advised: bool) -> None:
    text = configuration(haproxy("haproxy", advised=advised))
    assert "server backend-1 10.0.0.2:8080\n" in text
    assert "server backend-2 10.0.0.3:8080\n" in text
    assert "default-server check inter 2s fall 3 rise 2" in text
    assert "timeout check 1s" in text
    assert ("option redispatch" in text) is advised
    assert ("retry-on conn-failure empty-response response-timeout" in text) is advised


@pytest.mark.parametrize("advised", [False, True])
def test_traefik_takes_its_own_containers_and_checks_them(*, advised: bool) -> None:
    text = configuration(traefik("/opt/traefik", advised=advised))
    assert f"Label(`{LABEL}`, `mine`)" in text
    assert "healthcheck.interval=2s" in text
    assert "healthcheck.timeout=1s" in text
    assert ("retry.attempts=3" in text) is advised
    assert ("middlewares=again" in text) is advised
    assert ("responseHeaderTimeout: 2s" in text) is advised


class Engine:
    """Stands where docker's client would, with containers that start and stop at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.running: list[str] = []

    def docker(self, *words: str) -> str:
        self.asked.append(" ".join(words))
        if words[0] == "run":
            self.running.append(words[words.index("--name") + 1])
        elif words[0] == "stop":
            self.running = [name for name in self.running if name not in words[1:]]
        return ""

    def remove(self, containers: Sequence[str]) -> None:
        self.running = [name for name in self.running if name not in containers]

    def listed(self, *_: str) -> list[str]:
        return [name for name in self.running if "-backend-" in name]

    def address(self, container: str, _network: str) -> str:
        return f"10.0.0.{container.rpartition('-')[2]}"

    def numbers(self) -> list[int]:
        """Of the backends that run."""
        return [int(name.rpartition("-")[2]) for name in self.listed()]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    for name in ("docker", "remove", "listed", "address"):
        monkeypatch.setattr(f"benchmarks.faults.peers.{name}", getattr(engine, name))
    monkeypatch.setattr("benchmarks.faults.peers.wait_until", lambda *_: True)
    return engine


@pytest.fixture
def stack(engine: Engine) -> Iterator[PeerStack]:
    stack = PeerStack(haproxy("haproxy", advised=False))
    stack.up(3)
    yield stack
    stack.down()
    assert engine.running == []


def test_the_balancer_starts_last_in_lbctls_position(engine: Engine, stack: PeerStack) -> None:
    balancer = engine.asked[-1]
    assert f"--publish 127.0.0.1:{stack.port}:8080" in balancer
    assert "--restart unless-stopped" in balancer
    assert "--stop-signal TERM" in balancer, "the image's own is nginx's"
    assert [one.address for one in stack.backends()] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_scaling_starts_and_stops_no_more_than_it_must(engine: Engine, stack: PeerStack) -> None:
    stack.scale(5)
    assert sorted(engine.numbers()) == [1, 2, 3, 4, 5]
    stack.scale(2)
    assert engine.numbers() == [1, 2]
    asked = len(engine.asked)
    stack.scale(2)
    assert len(engine.asked) == asked


def test_replacing_starts_a_new_one_before_it_stops_an_old_one(
    engine: Engine, stack: PeerStack
) -> None:
    before = len(engine.asked)
    stack.replace_all()
    assert engine.numbers() == [4, 5, 6]
    assert [line.split()[0] for line in engine.asked[before:]] == ["run", "stop"] * 3


def test_a_reload_goes_to_the_balancer(engine: Engine, stack: PeerStack) -> None:
    stack.reload()
    assert engine.asked[-1].startswith("kill --signal USR2 ")
    assert engine.asked[-1].endswith("-lb")
