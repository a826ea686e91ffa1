"""What of a configuration reaches the lb container, and what makes it another one."""

from __future__ import annotations

from typing import Any

import pytest

from lbctl import config
from lbctl.config import Config, Control, Deploy, Health
from lbctl.deploy import Address
from lbctl.deploy.docker import LABEL_DIGEST, _difference, _digest, _settings
from lbctl.runtime.containers import ADMIN_PORT, TRAFFIC_PORT, Names, Outside, lb_body


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


def body(port: int = 8080, **settings: str) -> dict[str, Any]:
    outside = Outside({TRAFFIC_PORT: ("", port), ADMIN_PORT: ("127.0.0.1", 9900)}, "/d.sock")
    return lb_body(Names("shop"), "lbctl-lb:1", settings, outside)


def made(of: dict[str, Any], image: str) -> dict[str, Any]:
    """A container made of that body, as `inspect` shows it."""
    labels = of["Labels"] | {LABEL_DIGEST: _digest(of, image)}
    return {"Image": image, "Config": {"Labels": labels}, "HostConfig": of["HostConfig"]}


@pytest.mark.parametrize(
    ("new", "image", "difference"),
    [
        (body(), "sha256:1", ""),
        (body(), "sha256:2", "another image"),
        (body(port=81), "sha256:1", "other ports"),
        (body(LBCTL_WORKERS="2"), "sha256:1", "other settings"),
    ],
)
def test_what_makes_it_another(new: dict[str, Any], image: str, difference: str) -> None:
    old = made(body(), "sha256:1")
    new["Labels"][LABEL_DIGEST] = _digest(new, image)
    assert _difference(old, new, image) == difference


def test_what_somebody_else_made_is_never_another() -> None:
    old = made(body(port=99), "sha256:1")
    del old["Config"]["Labels"][LABEL_DIGEST]
    new = body()
    new["Labels"][LABEL_DIGEST] = "x"
    assert _difference(old, new, "sha256:2") == ""


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
