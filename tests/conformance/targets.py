"""What the suites are pointed at: lbctl or, beside it, another proxy, and the backends behind.

    direct          a backend itself
    lbctl           a worker of lbctl before three backends
    haproxy, nginx  the same backends behind these
    HOST:PORT       whatever listens there

The backends echo (echo.py) unless a suite brings its own. With backends="stack" they are the
three nginx of a whole local stack, and `lbctl` is that stack.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from lbctl.model import Backend, Snapshot
from lbctl.process import wire
from tests.support.cli import Cli, free_port
from tests.support.deadlines import until

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

BACKENDS = 3
PEERS = ("direct", "haproxy", "nginx")
"""Shown for comparison: a driver's exit status is about every other target."""
_SBIN = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
_END_S = 10.0


class Address(NamedTuple):
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Target(NamedTuple):
    """What a suite talks to."""

    name: str
    address: Address


def entry(main: Callable[[], int]) -> NoReturn:
    """Runs a driver; also where it is terminated, what it started ends with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    raise SystemExit(main())


def program(name: str) -> str:
    """Where a program is. Ends the driver with exit status 3 if it is not installed."""
    found = shutil.which(name, path=_SBIN)
    if found is None:
        print(f"no {name} is installed", file=sys.stderr)
        raise SystemExit(3)
    return found


def existing(text: str) -> Path:
    """An argument that names a directory."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no directory")
    return Path(text)


def _target_name(text: str) -> str:
    if text not in ("lbctl", *PEERS) and not re.fullmatch(r"[\d.]+:\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no target")
    return text


def add_target_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target",
        action="append",
        type=_target_name,
        metavar="NAME",
        help=f"lbctl (default), {', '.join(PEERS)} or HOST:PORT; may be given more than once",
    )


def chosen(options: argparse.Namespace) -> list[str]:
    """The names that add_target_option's option was given."""
    names: list[str] = options.target or ["lbctl"]
    return names


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    inherits: Sequence[int] = (),
) -> Iterator[None]:
    """A process that lives as long as the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            pass_fds=inherits,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listening() -> socket.socket:
    """A listening socket on a free port, to be handed to a process."""
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    one.listen(1024)
    return one


def serving(address: Address, log: Path) -> None:
    """Returns as soon as HTTP is answered there; ends the driver with `log` if it never is."""

    def answers() -> bool:
        with socket.create_connection(address, timeout=1) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: suite\r\nConnection: close\r\n\r\n")
            return client.recv(8).startswith(b"HTTP/1.1")

    try:
        until(answers)
    except AssertionError as error:
        raise SystemExit(f"{error}\n{log.read_text(encoding='utf-8')}") from None


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory for a target's files; its processes, which are others, may pass through."""
    directory = Path(tempfile.mkdtemp(prefix="lbctl-suite-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def echo_backends() -> Iterator[list[Address]]:
    """Backends that echo."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch())
        sockets = [stack.enter_context(listening()) for _ in range(BACKENDS)]
        numbers = [one.fileno() for one in sockets]
        command = [sys.executable, "-m", "tests.conformance.echo", *map(str, numbers)]
        stack.enter_context(running(command, log=directory / "echo.log", inherits=numbers))
        yield [Address(*one.getsockname()) for one in sockets]


@contextlib.contextmanager
def lbctl_worker(
    backends: Sequence[Address],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Target]:
    """A worker of lbctl."""
    routes = tuple(
        Backend(id=f"id-{number}", name=f"backend-{number}", ip=one.host, port=one.port)
        for number, one in enumerate(backends)
    )
    snapshot = wire.snapshot_document(Snapshot(revision=1, generation=1, routes=routes))
    with scratch() as directory, listening() as one:
        log = directory / "lbctl.log"
        (directory / "snapshot.json").write_text(json.dumps(snapshot), encoding="utf-8")
        number = one.fileno()
        command = [sys.executable, "-m", "tests.conformance.worker", str(number), str(directory)]
        with running(command, log=log, environment=environment, inherits=[number]):
            address = Address(*one.getsockname())
            serving(address, log)
            yield Target("lbctl", address)


@contextlib.contextmanager
def haproxy(backends: Sequence[Address]) -> Iterator[Target]:
    """HAProxy, as a person would configure it for the same purpose."""
    address = Address("127.0.0.1", free_port())
    servers = [f"  server s{number} {one}" for number, one in enumerate(backends)]
    lines = [
        "global",
        "  nbthread 1",
        "defaults",
        "  mode http",
        "  timeout connect 2s",
        "  timeout client 60s",
        "  timeout server 60s",
        "  timeout tunnel 60s",
        "  timeout http-request 10s",
        "  option forwardfor",
        "  http-reuse always",
        "frontend front",
        f"  bind {address}",
        "  default_backend back",
        "backend back",
        *servers,
    ]
    with scratch() as directory:
        configuration = directory / "haproxy.cfg"
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        log = directory / "haproxy.log"
        command = [program("haproxy"), "-db", "-f", str(configuration)]
        with running(command, log=log):
            serving(address, log)
            yield Target("haproxy", address)


@contextlib.contextmanager
def nginx(backends: Sequence[Address]) -> Iterator[Target]:
    """nginx as a proxy, streaming bodies as lbctl does."""
    address = Address("127.0.0.1", free_port())
    servers = "".join(f"server {one};" for one in backends)
    with scratch() as directory:
        configuration = directory / "nginx.conf"
        temporary = "".join(
            f"{kind}_temp_path {directory};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration.write_text(
            f"""daemon off; master_process off; pid {directory}/pid; error_log stderr;
            events {{}}
            http {{
              access_log off; {temporary}
              map $http_upgrade $upgrade_or_not {{ default upgrade; "" ""; }}
              upstream back {{ {servers} keepalive 16; }}
              server {{
                listen {address};
                client_max_body_size 0;
                location / {{
                  proxy_pass http://back;
                  proxy_http_version 1.1;
                  proxy_request_buffering off;
                  proxy_set_header Host $http_host;
                  proxy_set_header Upgrade $http_upgrade;
                  proxy_set_header Connection $upgrade_or_not;
                }}
              }}
            }}""",
            encoding="utf-8",
        )
        log = directory / "nginx.log"
        with running([program("nginx"), "-c", str(configuration)], log=log):
            serving(address, log)
            yield Target("nginx", address)


@contextlib.contextmanager
def local_stack(environment: Mapping[str, str] | None = None) -> Iterator[Cli]:
    """A whole stack of the local runtime, with nginx behind it."""
    cli = Cli(f"s{secrets.token_hex(4)}", "local", settings=dict(environment or {}))
    try:
        cli.ok("up", "--replicas", str(BACKENDS))
        yield cli
    finally:
        cli.clean()


@contextlib.contextmanager
def target(
    name: str,
    backends: Sequence[Address],
    *,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Target]:
    """The target of that name before `backends`; `environment` holds lbctl's settings."""
    if name == "direct":
        yield Target(name, backends[0])
    elif name == "lbctl":
        with lbctl_worker(backends, environment) as one:
            yield one
    elif name in ("haproxy", "nginx"):
        with (haproxy if name == "haproxy" else nginx)(backends) as one:
            yield one
    else:
        host, _, port = name.rpartition(":")
        yield Target(name, Address(host, int(port)))


@contextlib.contextmanager
def each(
    names: Sequence[str],
    *,
    backends: str = "echo",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Iterator[Target]]:
    """The named targets, one after the other, before the same backends."""
    with contextlib.ExitStack() as stack:
        whole = stack.enter_context(local_stack(environment)) if backends == "stack" else None
        if whole is None:
            behind = stack.enter_context(echo_backends())
        else:
            behind = [Address(row["ip"], 8080) for row in whole.backends()]

        def started() -> Generator[Target]:
            for name in names:
                if name == "lbctl" and whole is not None:
                    yield Target(name, Address("127.0.0.1", whole.port))
                else:
                    with target(name, behind, environment=environment) as one:
                        yield one

        iterator = started()
        stack.callback(iterator.close)  # if the caller stops early, the one at work ends first
        yield iterator


def run(
    command: Sequence[str],
    *,
    within_s: float,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a suite's program prints, both streams together, however it ends."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"{command[0]}: not done within {within_s:g} s", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"  ({time.monotonic() - started:.0f} s)")
    return done.stdout.decode("utf-8", "replace")
