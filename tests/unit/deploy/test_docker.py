"""What of a configuration reaches the lb container, and what makes it another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from lbctl import config
from lbctl.config import Config, Control, Deploy, Health
from lbctl.deploy import Address
from lbctl.deploy.docker import DockerStack, _settings, _stop_timeout_s
from lbctl.deploy.pieces import older, same, seal
from lbctl.errors import EngineError, OperationError
from lbctl.runtime.containers import LB_STOP_TIMEOUT_S, Names
from lbctl.runtime.transport import EngineRefusedError
from tests.support.told import Told

if TYPE_CHECKING:
    from pathlib import Path

    from lbctl.runtime.engine import Engine


def test_only_what_was_set_goes_in() -> None:
    assert _settings(Config()) == {"LBCTL_PROJECT": "lbctl"}
    changed = Config(
        project="shop",
        workers=4,
        access_log="off",
        health=Health(fall=5),
        control=Control(drain_timeout_s=2.5),
    )
    settings = _settings(changed)
    assert settings == {
        "LBCTL_PROJECT": "shop",
        "LBCTL_WORKERS": "4",
        "LBCTL_ACCESS_LOG": "off",
        "LBCTL_FALL": "5",
        "LBCTL_DRAIN_TIMEOUT_S": "2.5",
    }
    assert config.load(environ=settings) == changed


def test_what_is_settled_outside_stays_outside() -> None:
    outside = Config(
        runtime="docker",
        bind="127.0.0.1",
        port=80,
        admin_bind="127.0.0.2",
        admin_port=81,
        deploy=Deploy(replicas=7, lb_image="x"),
    )
    assert _settings(outside) == {"LBCTL_PROJECT": "lbctl"}


def test_an_lb_is_given_the_time_that_its_workers_may_take_to_drain() -> None:
    assert _stop_timeout_s(Config()) > Control().drain_timeout_s
    assert _stop_timeout_s(Config(control=Control(drain_timeout_s=0.1))) == LB_STOP_TIMEOUT_S
    for drain_timeout_s in (29.5, 600.0):
        config = Config(control=Control(drain_timeout_s=drain_timeout_s))
        assert drain_timeout_s + 1 < _stop_timeout_s(config) < drain_timeout_s + 15


def made(body: dict[str, Any]) -> dict[str, Any]:
    """A container made of that body, as `inspect` shows it."""
    return {"Config": {"Labels": dict(body["Labels"])}}


def sealed(*essence: object) -> dict[str, Any]:
    body: dict[str, Any] = {"Labels": {}}
    seal(body, essence)
    return body


def test_what_makes_it_another() -> None:
    old = made(sealed("a body", "sha256:1"))
    assert same(old, sealed("a body", "sha256:1"))
    assert not same(old, sealed("a body", "sha256:2"))


def test_what_somebody_else_made_is_another() -> None:
    assert not same({"Config": {"Labels": {}}}, sealed("a body"))


def test_an_lb_that_is_older_than_its_pod_is_in_no_network() -> None:
    def since(moment: str) -> dict[str, Any]:
        return {"State": {"StartedAt": moment}}

    pod = since("2026-11-27T05:00:00.5Z")
    assert older(since("2026-11-27T05:00:00.4Z"), pod)
    assert not older(since("2026-11-27T05:00:00.6Z"), pod)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (Address("", 80), "http://127.0.0.1:80"),
        (Address("0.0.0.0", 80), "http://127.0.0.1:80"),
        (Address("::1", 80), "http://[::1]:80"),
        (Address("10.0.0.1", 80), "http://10.0.0.1:80"),
    ],
)
def test_how_it_is_reached(address: Address, url: str) -> None:
    assert address.url == url


class LeftBehind:
    """An engine that has a project's network, does not remove it, and of the project nothing else
    but its volumes.
    """

    def __init__(self, why: str, *on_it: str) -> None:
        self._why = why
        self._on_it = {name: {"Name": name} for name in on_it}
        self.volumes = set(Names("shop").volumes)

    async def containers(self, _: object) -> list[Any]:
        return []

    async def network(self, name: str) -> dict[str, Any]:
        return {"Name": name, "Labels": {"lbctl.project": "shop"}, "Containers": self._on_it}

    async def remove_network(self, name: str) -> None:
        raise EngineRefusedError(f"remove network {name}", 403, self._why)

    async def volume(self, _: str) -> dict[str, Any]:
        return {"Labels": {"lbctl.project": "shop"}}

    async def remove_volume(self, name: str) -> None:
        self.volumes.remove(name)


@pytest.fixture(autouse=True)
def nobody_else_is_at_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LBCTL_STATE_DIR", str(tmp_path))


async def ended(engine: LeftBehind) -> Told:
    told = Told()
    assert await DockerStack("shop", cast("Engine", engine)).down(told)
    return told


async def test_a_network_on_which_the_engine_miscounts_ends_nothing() -> None:
    engine = LeftBehind("network shop has active endpoints")
    (note,) = (await ended(engine)).notes
    assert note.startswith("network shop stays: nothing is on it")
    assert not engine.volumes


async def test_a_network_that_somebody_uses_is_an_error_and_so_is_any_other() -> None:
    with pytest.raises(OperationError, match="still used by guest"):
        await ended(LeftBehind("network shop has active endpoints", "guest"))
    with pytest.raises(EngineError, match="remove network shop: not allowed"):
        await ended(LeftBehind("not allowed"))
