"""`lbctl bench`: wrk against the running stack, and what its answers cost the lb."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lbctl.cli.client import AdminClient, backends_url
from lbctl.cli.progress import passing
from lbctl.core import wrk
from lbctl.core.cputime import container_ns, spent, ticks_of
from lbctl.core.text import printable
from lbctl.errors import LbctlError, MachineError, OperationError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from lbctl.cli.client import Status
    from lbctl.cli.screen import Screen
    from lbctl.cli.session import Session
    from lbctl.config import Config
    from lbctl.core.wrk import Errors, Load
    from lbctl.deploy import FoundStack

    Look = Callable[[], Awaitable[dict[str, float]]]

_PROGRAM: Final = "wrk"
_MARGIN_S: Final = 15.0
_PROC: Final = Path("/proc")
_WORKERS, _CONTAINERS = "workers", "lb containers"


@dataclass(frozen=True, slots=True)
class Cpu:
    """What the lb used meanwhile. `of` says of what: the workers, or all of the lbs' containers."""

    of: str
    used_s: float
    cores: int

    def us_a_request(self, load: Load) -> float:
        return self.used_s * 1e6 / load.requests

    def requests_a_core(self, load: Load) -> float:
        """What one core would do in a second, if it did nothing else."""
        return load.requests / self.used_s if self.used_s else 0.0


async def run(
    session: Session,
    settings: Config,
    *,
    seconds: int,
    connections: int,
    threads: int,
    as_json: bool,
) -> int:
    """Exit status 1 if nothing was answered. Raises MachineError where there is no wrk."""
    if threads > connections:
        raise UsageError(f"{threads} threads cannot share {connections} connections: fewer threads")
    program = shutil.which(_PROGRAM)
    if program is None:
        raise MachineError(
            "wrk is not installed\n"
            "install it: apt-get install wrk (Debian, Ubuntu), apk add wrk, brew install wrk"
        )
    screen = session.screen
    async with (
        session.running(settings) as (_, found),
        AdminClient(found.admin.url) as client,
    ):
        status = await client.status()
        url = backends_url(found, status)
        command = [
            program, "--latency", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", url + "/",
        ]  # fmt: skip
        async with _looking(found, client) as (of, look):
            before = await look()
            load = await _loaded(screen, command, seconds)
            used_s = spent(before, await look())
    cpu = None if used_s is None else Cpu(of, used_s, os.cpu_count() or 1)
    if as_json:
        screen.document(document(found, url, status, command, load, cpu))
    else:
        _show(screen, status, load, cpu)
    return 0 if load.requests else 1


async def _loaded(screen: Screen, command: list[str], seconds: int) -> Load:
    """Run wrk to its end. Raises OperationError with what it said instead of figures."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds + _MARGIN_S):
            with screen.steps(f"wrk for {seconds} s") as steps:
                async with passing(steps, seconds, f"{seconds} s"):
                    said, _ = await process.communicate()
    except TimeoutError:
        raise OperationError(f"wrk did not end within {seconds + _MARGIN_S:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    text = said.decode(errors="replace")
    try:
        return wrk.parse(text)
    except ValueError as error:
        last = printable((text.strip().splitlines() or ["nothing"])[-1])
        reason = last if process.returncode else str(error)
        raise OperationError(f"wrk gave no figures: {reason}") from None


@contextlib.asynccontextmanager
async def _looking(found: FoundStack, client: AdminClient) -> AsyncIterator[tuple[str, Look]]:
    """How to learn what CPU time was used so far, by process, and of what that is. Where it cannot
    be learned, nothing is found.
    """
    if found.runtime == "local":

        async def of_workers() -> dict[str, float]:
            return _of_processes(await client.status())

        yield _WORKERS, of_workers
        return
    from lbctl.runtime.containers import Names
    from lbctl.runtime.engine import Engine

    engine = await Engine.connect()

    async def of_containers() -> dict[str, float]:
        found_s = {}
        try:
            for lb in await engine.containers(Names(found.project).filters("lb")):
                if lb["State"] == "running":
                    found_s[lb["Id"]] = container_ns(await engine.stats(lb["Id"])) / 1e9
        except (LbctlError, ValueError):
            return {}
        return found_s

    try:
        yield _CONTAINERS, of_containers
    finally:
        await engine.close()


def _of_processes(status: Status) -> dict[str, float]:
    """CPU seconds of the workers, by pid; nothing where one of them cannot be looked at."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    found_s = {}
    for process in status["processes"]:
        if process["role"] == "worker":
            try:
                line = (_PROC / str(process["pid"]) / "stat").read_text(errors="replace")
                found_s[str(process["pid"])] = ticks_of(line) / ticks_per_s
            except (OSError, ValueError):
                return {}
    return found_s


def _show(screen: Screen, status: Status, load: Load, cpu: Cpu | None) -> None:
    percentiles = "  ".join(f"p{each} {_ms(load.percentiles_s[each])}" for each in (50, 90, 99))
    per_second = load.read_bytes / load.took_s if load.took_s else 0.0
    screen.say(f"requests  {load.requests_per_second:,.0f} a second, {load.requests:,} in all")
    screen.say(f"latency   {percentiles}  max {_ms(load.slowest_s)}")
    screen.say(f"transfer  {per_second / 1e6:.1f} MB/s")
    screen.say(f"errors    {_errors(load.errors)}")
    screen.say(f"CPU       {_cpu(cpu, load)}")
    workers = sum(process["role"] == "worker" for process in status["processes"])
    cores = os.cpu_count() or 1
    screen.say("")
    screen.say(
        f"wrk, {len(status['backends'])} backends and {workers} workers of the lb share the "
        f"{cores} cores of this machine,"
    )
    screen.say("so this is not the most that the lb can do. The CPU a request is the lb's alone.")


def _errors(errors: Errors) -> str:
    if not errors.total:
        return "none"
    kinds = (
        ("not 2xx or 3xx", errors.status), ("no connection", errors.connect),
        ("read", errors.read), ("write", errors.write), ("timed out", errors.timeout),
    )  # fmt: skip
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds if count)


def _cpu(cpu: Cpu | None, load: Load) -> str:
    if cpu is None:
        return "not known: the lb's processes are other ones than before"
    if not load.requests:
        return "nothing was answered"
    per_core = f"{cpu.requests_a_core(load):,.0f} requests a second a core"
    busy = cpu.used_s / load.took_s if load.took_s else 0.0
    return (
        f"{cpu.us_a_request(load):.1f} us a request ({cpu.of}), so {per_core}; "
        f"{busy:.2f} cores were busy with it"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def document(
    found: FoundStack,
    url: str,
    status: Status,
    command: list[str],
    load: Load,
    cpu: Cpu | None,
) -> dict[str, Any]:
    """What `--json` prints; docs/cli.md describes it."""
    options = {option[1]: int(option[2:].rstrip("s")) for option in command[2:5]}
    answered = cpu is not None and load.requests > 0
    return {
        "project": found.project,
        "runtime": found.runtime,
        "url": url,
        "seconds": options["d"],
        "connections": options["c"],
        "threads": options["t"],
        "backends": len(status["backends"]),
        "workers": sum(process["role"] == "worker" for process in status["processes"]),
        "requests": load.requests,
        "requests_per_second": load.requests_per_second,
        "read_bytes_per_second": round(load.read_bytes / load.took_s) if load.took_s else 0,
        "latency_ms": {
            "mean": round(load.mean_s * 1000, 3),
            **{f"p{each}": round(s * 1000, 3) for each, s in load.percentiles_s.items()},
            "max": round(load.slowest_s * 1000, 3),
        },
        "errors": {
            "status": load.errors.status,
            "connect": load.errors.connect,
            "read": load.errors.read,
            "write": load.errors.write,
            "timeout": load.errors.timeout,
        },
        "cpu": {
            "of": cpu.of,
            "us_per_request": round(cpu.us_a_request(load), 2),
            "requests_per_second_per_core": round(cpu.requests_a_core(load)),
            "cores_busy": round(cpu.used_s / load.took_s, 3) if load.took_s else 0.0,
        }
        if cpu is not None and answered
        else None,
        "cores": os.cpu_count() or 1,
        "load_shares_the_machine": True,
    }
