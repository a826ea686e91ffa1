"""Every setting is a flag of `up` and of `serve`, and gets from there to the lb's processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lbctl import config
from lbctl.cli.options import flag
from lbctl.config import LEAVES, Config
from lbctl.deploy import docker
from lbctl.process import supervisor
from tests.unit.test_config import other_value, value_of

if TYPE_CHECKING:
    from lbctl.paths import Paths
    from tests.unit.cli.machine import Machine

OF_THE_LB = [name for name, leaf in LEAVES.items() if leaf.section != "deploy"]
CHECKED = [
    name
    for name, leaf in LEAVES.items()
    if (leaf.kind is not str or leaf.choices or leaf.check)
    and name != "probe_body"  # any text may be meant, as long as it is one
]
OUTSIDE = {"runtime", "bind", "port", "admin_bind", "admin_port"}
OUTSIDE |= {"tls_cert", "tls_key", "tls_dir", "tls_port"}


def meant(name: str) -> Any:
    """Another value than the default, as the configuration has it."""
    return LEAVES[name].kind(other_value(name))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What `serve` would have served."""
    configs: list[Config] = []

    def main(settings: Config, _where: Paths, _reread: object, _lb: str) -> int:
        configs.append(settings)
        return 0

    monkeypatch.setattr(supervisor, "main", main)
    return configs


@pytest.mark.parametrize("name", OF_THE_LB)
def test_a_flag_of_up_reaches_the_stack(machine: Machine, name: str) -> None:
    assert machine.type("up", flag(name), other_value(name)).status == 0
    (options,) = machine.stacks["docker"].options
    assert value_of(options.config, name) == meant(name)


def test_the_flags_that_say_what_to_start(machine: Machine) -> None:
    typed = machine.type("up", "--replicas", "2", "--lb-image", "a", "--backend-image", "b")
    assert typed.status == 0
    (options,) = machine.stacks["docker"].options
    assert (options.lb_image, options.backend_image) == ("a", "b")
    assert machine.lb.scaler.wishes == [2]


@pytest.mark.parametrize("name", OF_THE_LB)
def test_the_lb_of_a_stack_gets_what_up_was_given(machine: Machine, name: str) -> None:
    machine.type("up", flag(name), other_value(name))
    (options,) = machine.stacks["docker"].options
    if name not in OUTSIDE:  # in a container those are fixed
        environment = docker._settings(options.config)
        assert value_of(config.load(environ=environment), name) == meant(name)
    settings = config.settings_of(options.config)
    environment = {LEAVES[key].variable: str(value) for key, value in settings.items()}
    assert config.load(environ=environment) == options.config


@pytest.mark.parametrize("name", LEAVES)
def test_a_flag_of_serve_is_served(machine: Machine, served: list[Config], name: str) -> None:
    runtime = () if name == "runtime" else ("--runtime", "local")
    assert machine.type("serve", *runtime, flag(name), other_value(name)).status == 0
    (settings,) = served
    assert value_of(settings, name) == meant(name)


@pytest.mark.parametrize("command", ["up", "serve"])
@pytest.mark.parametrize("name", CHECKED)
def test_a_value_that_cannot_be_meant_is_wrong_usage(
    machine: Machine, served: list[Config], command: str, name: str
) -> None:
    typed = machine.type(command, flag(name), "no such")
    assert (typed.status, typed.out) == (2, "")
    assert typed.err.startswith(f"lbctl: {flag(name)}: ")
    assert typed.err.count("\n") == 1
    assert not machine.stacks["docker"].options
    assert not served


def test_a_flag_wins_over_the_environment(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LBCTL_BALANCE", "p2c")
    monkeypatch.setenv("LBCTL_STICKY_COOKIE", "lb")
    typed = machine.type("up", "--balance", "least-connections", "--sticky-cookie", "")
    assert typed.status == 0
    (options,) = machine.stacks["docker"].options
    assert options.config.balancing.balance == "least-connections"
    assert options.config.balancing.sticky_cookie == ""
