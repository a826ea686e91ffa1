from __future__ import annotations

import itertools

import pytest

from lbctl.cli.resolve import Facts, for_up, or_local, present, running, survey
from lbctl.deploy import Address, FoundStack
from lbctl.errors import (
    EngineError,
    EngineUnavailableError,
    LbctlError,
    MachineError,
    OperationError,
    UsageError,
)
from tests.unit.cli.machine import NO_ENGINE, Lb, Machine

NO_NGINX = "no nginx is installed\ninstall one: apt-get install nginx-light"


def found(runtime: str, *, is_running: bool = True) -> FoundStack:
    address = Address("127.0.0.1", 8080)
    return FoundStack(runtime, "shop", "shop-lb", is_running, address, address)


def facts(
    wanted: str = "auto",
    *,
    docker: FoundStack | None = None,
    local: FoundStack | None = None,
    engine: str = "",
    nginx: str = "",
) -> Facts:
    return Facts("shop", wanted, docker, local, engine, nginx)


def test_auto_takes_docker_where_an_engine_answers() -> None:
    choice = for_up(facts())
    assert (choice.runtime, choice.why) == ("docker", "a Docker engine answers")


def test_auto_takes_local_else_and_says_why() -> None:
    choice = for_up(facts(engine=NO_ENGINE))
    assert (choice.runtime, choice.why) == ("local", NO_ENGINE.splitlines()[0])


def test_auto_without_either_says_what_to_install() -> None:
    with pytest.raises(MachineError) as caught:
        for_up(facts(engine=NO_ENGINE, nginx=NO_NGINX))
    first, second = str(caught.value).splitlines()
    assert "no Docker engine" in first
    assert "no nginx" in first
    assert second == "install one: apt-get install nginx-light"


@pytest.mark.parametrize("is_running", [True, False])
def test_auto_stays_where_the_stack_is(is_running: bool) -> None:
    assert for_up(facts(local=found("local", is_running=is_running))).runtime == "local"
    there = found("docker", is_running=is_running)
    assert for_up(facts(docker=there, nginx=NO_NGINX)).runtime == "docker"


def test_of_two_stacks_the_running_one_counts() -> None:
    both = facts(docker=found("docker", is_running=False), local=found("local"))
    assert for_up(both).runtime == "local"
    assert running(both).runtime == "local"


def test_what_was_asked_for_needs_what_it_needs() -> None:
    with pytest.raises(EngineUnavailableError):
        for_up(facts("docker", engine=NO_ENGINE))
    with pytest.raises(MachineError, match="no nginx"):
        for_up(facts("local", nginx=NO_NGINX))
    assert for_up(facts("local")).runtime == "local"
    assert for_up(facts("docker", nginx=NO_NGINX)).runtime == "docker"


@pytest.mark.parametrize(("wanted", "other"), [("docker", "local"), ("local", "docker")])
def test_one_project_runs_on_one_runtime(wanted: str, other: str) -> None:
    elsewhere = facts(wanted, **{other: found(other)})  # type: ignore[arg-type]
    for decide in (present, for_up, running):
        with pytest.raises(UsageError, match=f"runs on {other}, not on {wanted}"):
            decide(elsewhere)
    ended = facts(wanted, **{other: found(other, is_running=False)})  # type: ignore[arg-type]
    assert for_up(ended).runtime == wanted


def test_falling_back_keeps_the_reason() -> None:
    assert or_local(facts(), "image x cannot be pulled").why == "image x cannot be pulled"
    with pytest.raises(MachineError, match=r"image x cannot be pulled; no nginx"):
        or_local(facts(nginx=NO_NGINX), "image x cannot be pulled")


def test_every_situation_has_an_answer_of_at_most_two_lines() -> None:
    stacks = ("", "running", "ended")
    for wanted, docker, local, engine, nginx in itertools.product(
        ("auto", "docker", "local"), stacks, stacks, ("", NO_ENGINE), ("", NO_NGINX)
    ):
        situation = facts(
            wanted,
            docker=found("docker", is_running=docker == "running") if docker else None,
            local=found("local", is_running=local == "running") if local else None,
            engine=engine,
            nginx=nginx,
        )
        for decide in (for_up, running):
            said = "one line"
            try:
                decide(situation)
            except (UsageError, MachineError, OperationError) as error:
                said = str(error)
            assert 1 <= len(said.splitlines()) <= 2


# survey


async def test_survey_asks_both() -> None:
    lb = Lb()
    try:
        machine = Machine(lb)
        machine.stacks["local"].there = True
        seen, stacks = await survey("shop", "auto", machine)
        assert seen.local is not None
        assert seen.docker is None
        assert sorted(stacks) == ["docker", "local"]
        machine.engine_problem = NO_ENGINE
        seen, stacks = await survey("shop", "auto", machine)
        assert seen.engine_problem == NO_ENGINE
        assert sorted(stacks) == ["local"]
    finally:
        lb.close()


async def test_survey_closes_what_it_opened_when_it_fails() -> None:
    async def refuses() -> FoundStack | None:
        raise EngineError("list containers: the Docker engine broke off")

    lb = Lb()
    try:
        machine = Machine(lb)
        machine.stacks["docker"].find = refuses  # type: ignore[method-assign]
        with pytest.raises(LbctlError):
            await survey("shop", "auto", machine)
        for stack in machine.stacks.values():
            assert stack.opened == stack.closed == 1
    finally:
        lb.close()
