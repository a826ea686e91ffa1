"""`lbctl doctor`: what this machine has and lacks, and what to do about each finding.

It changes nothing.
"""

from __future__ import annotations

import contextlib
import platform
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from lbctl.cli import certificates
from lbctl.cli.findings import Finding, Level
from lbctl.cli.options import flag
from lbctl.core.text import printable
from lbctl.deploy.images import BASE_IMAGE
from lbctl.deploy.listening import refuse_listened
from lbctl.deploy.secure import addresses_of
from lbctl.errors import EngineUnavailableError, LbctlError, MachineError, OperationError
from lbctl.runtime.containers import BACKEND_IMAGE, LB_IMAGE
from lbctl.runtime.engine import Engine
from lbctl.runtime.nginx import find_nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbctl.cli.session import Session
    from lbctl.config import Config

    ReadFile = Callable[[str], str | None]

_MACHINE_STATUS = 3
_MIB: Final = 1 << 20
_LEAST_MEMORY_BYTES: Final = 256 * _MIB
_SPARE_FILES: Final = 1_024  # beside a worker's connections: pools, logs, sockets
_TRACKED_SHARE: Final = 0.8  # of the table of connections, before it is said to be full


async def doctor(session: Session, settings: Config, *, as_json: bool) -> int:
    """Print every finding. The status is 0 if lbctl can run in some way, else 3."""
    with session.screen.steps("looking at the machine"):
        engine, engine_ok = await _engine(settings)
        nginx, nginx_ok = _nginx()
        findings = [
            _python(),
            *engine,
            nginx,
            *await _stack(session, settings),
            *_limits(settings, resource.getrlimit(resource.RLIMIT_NOFILE)),
            *_memory(read_file),
            *_kernel(read_file),
            *_tracked(read_file),
        ]
    if as_json:
        runtime = "docker" if engine_ok else "local" if nginx_ok else None
        session.screen.document({"runtime": runtime, "findings": [_row(one) for one in findings]})
        return 0 if runtime else _MACHINE_STATUS
    _show(session, findings)
    if engine_ok:
        session.screen.say("lbctl can run here: in containers (lbctl up)")
    elif nginx_ok:
        session.screen.say("lbctl can run here: as plain nginx processes (lbctl up)")
    else:
        session.screen.say("lbctl cannot run here yet: it takes a Docker engine or an nginx")
    return 0 if engine_ok or nginx_ok else _MACHINE_STATUS


def _row(finding: Finding) -> dict[str, str]:
    return {
        "level": finding.level.value,
        "subject": finding.subject,
        "text": printable(finding.text, 400),
        "remedy": printable(finding.remedy, 400),
    }


def _show(session: Session, findings: list[Finding]) -> None:
    styles = {Level.OK: "green", Level.HINT: "yellow", Level.LACK: "bold red"}
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        text = Text(printable(finding.text, 400))
        if finding.remedy:
            text.append(f"\n-> {printable(finding.remedy, 400)}")
        level = Text(finding.level.value, style=styles[finding.level])
        table.add_row(level, Text(finding.subject), text)
    session.screen.show(table)


def _python() -> Finding:
    return Finding(
        Level.OK, "python", f"{platform.python_implementation()} {platform.python_version()}"
    )


async def _engine(settings: Config) -> tuple[list[Finding], bool]:
    """About the engine and the images; whether containers can run."""
    try:
        engine = await Engine.connect()
    except EngineUnavailableError as error:
        first, _, remedy = str(error).partition("\n")
        return [Finding(Level.HINT, "docker", first, remedy)], False
    findings = [Finding(Level.OK, "docker", f"Engine {engine.version} at {engine.address}")]
    try:
        findings.append(await _images(engine, settings))
    except LbctlError as error:
        findings.append(Finding(Level.HINT, "images", str(error), "see the engine's own log"))
    finally:
        await engine.close()
    return findings, True


async def _images(engine: Engine, settings: Config) -> Finding:
    lb_ref = settings.deploy.lb_image or LB_IMAGE
    backend_ref = settings.deploy.backend_image or BACKEND_IMAGE
    absent = [ref for ref in (backend_ref, lb_ref) if await engine.image(ref) is None]
    if not absent:
        return Finding(Level.OK, "images", f"{backend_ref} and {lb_ref} are there")
    text = f"{' and '.join(absent)}: not there yet"
    if await engine.image(BASE_IMAGE) is not None:
        return Finding(Level.OK, "images", f"{text}; lbctl up sees to it")
    remedy = f"lbctl up pulls {BASE_IMAGE} to build from; where no registry is in reach, load it"
    return Finding(Level.HINT, "images", f"{text}, nor is {BASE_IMAGE}", remedy)


def _nginx() -> tuple[Finding, bool]:
    """About an nginx for the local runtime; whether plain processes can run."""
    try:
        nginx = find_nginx()
    except MachineError as error:
        first, _, remedy = str(error).partition("\n")
        return Finding(Level.HINT, "nginx", f"{first} (local runtime)", remedy), False
    return Finding(Level.OK, "nginx", f"{nginx.version} with its modules at {nginx.program}"), True


async def _stack(session: Session, settings: Config) -> list[Finding]:
    """About what a stack of this project takes: ports and certificates."""
    facts = None
    with contextlib.suppress(LbctlError):
        async with session.stacks(settings) as (facts, _):
            pass
    stacks = (facts.docker, facts.local) if facts is not None else ()
    held: set[int] = set()
    for found in stacks:
        if found is not None and found.running:
            held |= {found.traffic.port, found.admin.port}
            if found.tls is not None:
                held.add(found.tls.port)
    asked = {flag(name) for name in session.given()}
    return [*_ports(settings, held - {0}, asked), *certificates.findings(settings.tls, stacks)]


def _ports(settings: Config, held: set[int], asked: set[str]) -> list[Finding]:
    """About those the stack has. Where it runs, others count if their flags are among `asked`: a
    port that nobody chose may be its own backends'.
    """
    text = f"held by the stack of project {settings.project!r}"
    findings = [Finding(Level.OK, f"port {port}", text) for port in sorted(held)]
    for option, address in addresses_of(settings).items():
        if address.port in held or (held and option not in asked):
            continue
        subject = f"port {address.port}"
        try:
            refuse_listened({option: address})
        except LbctlError as error:
            remedy = f"lbctl up {option} ANOTHER"
            level = Level.LACK if isinstance(error, OperationError) else Level.HINT
            findings.append(Finding(level, subject, str(error), remedy))
        else:
            findings.append(Finding(Level.OK, subject, "free"))
    return findings


def _limits(settings: Config, files: tuple[int, int]) -> Iterator[Finding]:
    # A proxied client holds two connections: its own, and one to a backend.
    needed = 2 * settings.limits.connections_per_worker + _SPARE_FILES
    hard = files[1]
    if hard == resource.RLIM_INFINITY or hard >= needed:
        yield Finding(Level.OK, "open files", f"up to {_amount(hard)}, {needed} needed a worker")
    else:
        yield Finding(
            Level.HINT,
            "open files",
            f"at most {hard}, {needed} needed for {settings.limits.connections_per_worker} "
            "connections a worker (local runtime)",
            f"ulimit -Hn {needed}, or LimitNOFILE= of the service",
        )


def _amount(limit: int) -> str:
    return "any number" if limit == resource.RLIM_INFINITY else str(limit)


def read_file(path: str) -> str | None:
    """A small file of the kernel's; None where this kernel has it not, or keeps it."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _memory(read: ReadFile) -> Iterator[Finding]:
    sizes = []
    for line in (read("/proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            sizes.append(int(value.split()[0]) * 1024)
    limit = read("/sys/fs/cgroup/memory.max") or read("/sys/fs/cgroup/memory/memory.limit_in_bytes")
    if limit is not None and limit.isdecimal():
        sizes.append(int(limit))
    if not sizes:
        return
    usable = min(sizes)
    text = f"{usable // _MIB} MiB usable"
    if usable >= _LEAST_MEMORY_BYTES:
        yield Finding(Level.OK, "memory", text)
    else:
        remedy = f"have {_LEAST_MEMORY_BYTES // _MIB} MiB at least, or fewer --workers"
        yield Finding(Level.HINT, "memory", text, remedy)


@dataclass(frozen=True, slots=True)
class _Setting:
    """A kernel setting: fine from `least` on; `why` says what it costs where it is lower."""

    name: str
    least: int
    why: str


_SETTINGS: Final = (
    _Setting("net.ipv4.ip_forward", 1, "published ports of containers need it"),
    _Setting("net.core.somaxconn", 4096, "bursts of new connections are dropped beyond it"),
    _Setting(
        "net.ipv4.tcp_max_syn_backlog", 1024, "bursts of new connections are dropped beyond it"
    ),
)


def _kernel(read: ReadFile) -> Iterator[Finding]:
    for setting in _SETTINGS:
        raw = read("/proc/sys/" + setting.name.replace(".", "/"))
        if raw is None or not raw.isdecimal():
            continue
        short = setting.name.rpartition(".")[2]
        if int(raw) >= setting.least:
            yield Finding(Level.OK, short, raw)
        else:
            remedy = f"sysctl -w {setting.name}={setting.least}"
            yield Finding(Level.HINT, short, f"{raw}: {setting.why}", remedy)
    first_last = (read("/proc/sys/net/ipv4/ip_local_port_range") or "").split()
    if len(first_last) == 2:
        ports = int(first_last[1]) - int(first_last[0])
        if ports >= 16_384:
            yield Finding(Level.OK, "local ports", f"{ports}")
        else:
            text = f"{ports}: no more connections than that to one backend"
            remedy = 'sysctl -w net.ipv4.ip_local_port_range="15000 64999"'
            yield Finding(Level.HINT, "local ports", text, remedy)


def _tracked(read: ReadFile) -> Iterator[Finding]:
    """About the packet filter's table of connections. Docker's rules have it filled: one that has
    ended is kept for a while yet, and where the table is full new ones are dropped.
    """
    names = ("nf_conntrack_count", "nf_conntrack_max", "nf_conntrack_tcp_timeout_time_wait")
    numbers = [read(f"/proc/sys/net/netfilter/{name}") or "" for name in names]
    if not all(one.isdecimal() and int(one) for one in numbers[1:]) or not numbers[0].isdecimal():
        return
    count, most, kept_s = map(int, numbers)
    text = f"{count} of {most}, which carry {most // kept_s} new ones/s for long"
    if count < most * _TRACKED_SHARE:
        yield Finding(Level.OK, "tracked connections", text)
    else:
        remedy = f"sysctl -w net.netfilter.nf_conntrack_max={4 * most}"
        yield Finding(
            Level.HINT, "tracked connections", f"{text}: beyond them they are dropped", remedy
        )
