"""Which runtime a command works on: one decision, from facts that `survey` gathers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lbctl.errors import EngineUnavailableError, MachineError, OperationError, UsageError

if TYPE_CHECKING:
    from lbctl.deploy import FoundStack, Stack


class Runtimes(Protocol):
    """Opens the stacks that this machine may have. A fake one serves the tests."""

    async def docker(self, project: str) -> Stack:
        """Raises EngineUnavailableError."""

    async def local(self, project: str) -> Stack:
        """The stack of plain processes; always there to be asked."""

    def nginx_problem(self) -> str:
        """Why no nginx on this machine can be a local backend; "" if one can."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides. `engine_problem` and `nginx_problem` are "" where all is well."""

    project: str
    wanted: str  # auto, docker or local
    docker: FoundStack | None
    local: FoundStack | None
    engine_problem: str
    nginx_problem: str

    def found(self, runtime: str) -> FoundStack | None:
        """The stack on that runtime."""
        return self.docker if runtime == "docker" else self.local


@dataclass(frozen=True, slots=True)
class Choice:
    """A runtime, and in a few words why it."""

    runtime: str
    why: str


def present(facts: Facts) -> Choice | None:
    """The runtime on which a stack of this project is; None if there is none.

    Raises UsageError where another runtime was asked for than the one it runs on.
    """
    both = (facts.docker, facts.local)
    there = sorted((found for found in both if found), key=lambda found: not found.running)
    if facts.wanted == "auto":
        return Choice(there[0].runtime, "the stack is there") if there else None
    for found in there:
        if found.runtime == facts.wanted:
            return Choice(found.runtime, "it was asked for")
        if found.running:
            raise UsageError(
                f"project {facts.project!r} runs on {found.runtime}, not on {facts.wanted}\n"
                "end it first (lbctl down), or give this one another name (--project NAME)"
            )
    return None


def for_up(facts: Facts) -> Choice:
    """The runtime on which to start, or go on with, the stack.

    Raises UsageError as `present` does, and MachineError where the machine lacks what it takes.
    """
    there = present(facts)
    if there is not None and facts.wanted == "auto":
        return there
    if facts.wanted == "docker":
        if facts.engine_problem:
            raise EngineUnavailableError(facts.engine_problem)
        return Choice("docker", "it was asked for")
    if facts.wanted == "local":
        if facts.nginx_problem:
            raise MachineError(facts.nginx_problem)
        return Choice("local", "it was asked for")
    if not facts.engine_problem:
        return Choice("docker", "a Docker engine answers")
    return or_local(facts, _first_line(facts.engine_problem))


def or_local(facts: Facts, why_not_docker: str) -> Choice:
    """Fall back to plain processes. Raises MachineError where these cannot be had either."""
    if not facts.nginx_problem:
        return Choice("local", why_not_docker)
    nginx, _, install = facts.nginx_problem.partition("\n")
    raise MachineError(f"{why_not_docker}; {nginx}\n{install}".rstrip())


async def survey(project: str, wanted: str, runtimes: Runtimes) -> tuple[Facts, dict[str, Stack]]:
    """The facts, and the stacks that can be asked, by runtime; the caller closes them."""
    stacks: dict[str, Stack] = {"local": await runtimes.local(project)}
    found: dict[str, FoundStack | None] = {}
    engine_problem = ""
    try:
        found["local"] = await stacks["local"].find()
        try:
            stacks["docker"] = await runtimes.docker(project)
            found["docker"] = await stacks["docker"].find()
        except EngineUnavailableError as error:
            engine_problem = str(error)
    except BaseException:
        for stack in stacks.values():
            await stack.close()
        raise
    facts = Facts(
        project=project,
        wanted=wanted,
        docker=found.get("docker"),
        local=found["local"],
        engine_problem=engine_problem,
        nginx_problem=runtimes.nginx_problem(),
    )
    return facts, stacks


def running(facts: Facts) -> FoundStack:
    """The stack that runs, for commands that need one.

    Raises OperationError that says how to start it.
    """
    there = present(facts)
    found = facts.found(there.runtime) if there is not None else None
    if found is None:
        raise nothing_here(facts)
    if not found.running:
        raise OperationError(
            f"the stack of project {facts.project!r} has ended; lbctl up brings it back"
        )
    return found


def nothing_here(facts: Facts) -> OperationError:
    """That there is no stack, how to start one, and where it could not be looked."""
    text = f"no stack of project {facts.project!r} is here; start one: lbctl up"
    unseen = unseen_containers(facts)
    return OperationError(f"{text}\n{unseen}" if unseen else text)


def unseen_containers(facts: Facts) -> str:
    """A remark that containers may be there that could not be seen; "" where they were."""
    if not facts.engine_problem or facts.wanted == "local":
        return ""
    return f"(containers could not be looked at: {_first_line(facts.engine_problem)})"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
