"""Traefik and HAProxy, each in a container in lbctl's position: on the backends' network, with a
published port and the same restart policy. The backends are the same image.

Each comes twice: as it is out of the box with health checks of lbctl's rhythm, and as a
well-advised operator has it, who knows that a request may be asked again elsewhere.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cli import free_port

from benchmarks.compare.processes import wait_until
from benchmarks.faults.disturbances import KILL_WORKER, REPLACE, SCALE
from benchmarks.faults.engine import address, docker, kill_first_process, listed, remove
from benchmarks.faults.stacks import Backend
from lbctl.errors import OperationError
from lbctl.runtime.containers import BACKEND_IMAGE, ENGINE_SOCKET

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LABEL = "faults.stack"
_INSIDE = "/faults"
_PORT = 8080
_SERVES_S = 20.0
# What lbctl's containers have. The image's own health check, every 30 s, is out of the way: Traefik
# keeps a container out until it has passed.
_RUN = ("run", "--detach", "--restart", "unless-stopped", "--no-healthcheck")
# As contained HAProxy in benchmarks/compare: the image only gives the place.
_HOST_LIBRARIES = ("/usr:/usr:ro", "/usr/lib:/lib:ro", "/usr/lib64:/lib64:ro")
_STATIC = "its list of servers is static: new addresses are a new configuration"


@dataclass(frozen=True, slots=True)
class Peer:
    """How to run one. `more` are further arguments, made from the value of LABEL at its backends,
    and `files` its configuration, by name, made from their addresses. `labels` are theirs too;
    `reload` are docker's words before the balancer's name.
    """

    argv: Sequence[str]
    reload: Sequence[str]
    mounts: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    more: Callable[[str], Sequence[str]] = lambda _: ()
    files: Callable[[Sequence[str]], Mapping[str, str]] = lambda _: {}


def traefik(program: str, *, advised: bool) -> Peer:
    """`advised`: with its retry middleware, and with timeouts, without which a retry of a silent
    backend never comes.
    """
    router, service = "traefik.http.routers.all", "traefik.http.services.all.loadbalancer"
    labels = {
        f"{router}.rule": "PathPrefix(`/`)",
        f"{service}.server.port": str(_PORT),
        f"{service}.healthcheck.path": "/healthz",
        f"{service}.healthcheck.interval": "2s",
        f"{service}.healthcheck.timeout": "1s",
    }
    argv = [
        f"{_INSIDE}/traefik", f"--entrypoints.in.address=:{_PORT}", "--log.level=ERROR",
        "--global.checknewversion=false", "--global.sendanonymoususage=false",
    ]  # fmt: skip
    mounts = [f"{program}:{_INSIDE}/traefik:ro", f"{ENGINE_SOCKET}:{ENGINE_SOCKET}"]

    def more(stack: str) -> Sequence[str]:
        return [f"--providers.docker.constraints=Label(`{LABEL}`, `{stack}`)"]

    if not advised:
        return Peer(argv, ("restart",), mounts, labels, more)
    labels |= {
        "traefik.http.middlewares.again.retry.attempts": "3",
        f"{router}.middlewares": "again",
        f"{service}.serverstransport": "impatient@file",
    }
    argv.append(f"--providers.file.filename={_INSIDE}/etc/transport.yaml")
    transport = """\
http:
  serversTransports:
    impatient:
      forwardingTimeouts:
        dialTimeout: 1s
        responseHeaderTimeout: 2s
"""
    return Peer(argv, ("restart",), mounts, labels, more, lambda _: {"transport.yaml": transport})


def haproxy(program: str, *, advised: bool) -> Peer:
    """`advised`: with redispatch and retries of what may be asked again."""
    more = (
        """\
    timeout connect 1s
    timeout server 2s
    option redispatch
    retry-on conn-failure empty-response response-timeout
"""
        if advised
        else """\
    timeout connect 2s
    timeout server 30s
"""
    )

    def files(addresses: Sequence[str]) -> Mapping[str, str]:
        servers = "\n".join(
            f"    server backend-{number} {one}:{_PORT}" for number, one in enumerate(addresses, 1)
        )
        return {
            "haproxy.cfg": f"""\
defaults
    mode http
    timeout client 60s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout check 1s
{more}frontend in
    bind :{_PORT}
    default_backend out
backend out
    balance roundrobin
    option forwardfor
    option httpchk GET /healthz
    default-server check inter 2s fall 3 rise 2
{servers}
"""
        }

    argv = [program, "-W", "-db", "-f", f"{_INSIDE}/etc/haproxy.cfg"]
    return Peer(argv, ("kill", "--signal", "USR2"), _HOST_LIBRARIES, files=files)


TRAEFIK_LACKS = {KILL_WORKER: "it is one process"}
HAPROXY_LACKS = {
    SCALE: _STATIC,
    REPLACE: _STATIC,
    KILL_WORKER: "it has one worker, and ends with it",
}


class PeerStack:
    """A peer and its backends; its operator starts and stops these by docker's own commands."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._name = f"faults-{secrets.token_hex(4)}"
        self._port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="lbctl-faults-"))
        self._started = 0

    @property
    def port(self) -> int:
        return self._port

    @property
    def _balancer(self) -> str:
        return f"{self._name}-lb"

    def up(self, backends: int) -> None:
        docker("network", "create", self._name)
        self._start(backends)
        self._directory.chmod(0o755)
        addresses = [one.address for one in self.backends()]
        for name, text in self._peer.files(addresses).items():
            (self._directory / name).write_text(text, encoding="utf-8")
        volumes = [*self._peer.mounts, f"{self._directory}:{_INSIDE}/etc:ro"]
        program, *arguments = self._peer.argv
        docker(
            *_RUN, "--name", self._balancer, "--network", self._name, "--stop-signal", "TERM",
            "--publish", f"127.0.0.1:{self._port}:{_PORT}", "--user", "0",
            *(word for volume in volumes for word in ("--volume", volume)),
            "--entrypoint", program, BACKEND_IMAGE, *arguments, *self._peer.more(self._name),
        )  # fmt: skip

    def down(self) -> None:
        remove(listed(f"{LABEL}={self._name}"))
        with contextlib.suppress(OperationError):
            remove([self._balancer])
        with contextlib.suppress(OperationError):
            docker("network", "rm", self._name)
        for file in self._directory.iterdir():
            file.unlink()
        self._directory.rmdir()

    def backends(self) -> list[Backend]:
        found = ((name, address(name, self._name)) for name in listed(f"{LABEL}={self._name}"))
        return [Backend(name, ip) for name, ip in found if ip]

    def scale(self, count: int) -> None:
        running = self.backends()
        self._start(count - len(running))
        if len(running) > count:
            docker("stop", *(one.name for one in running[count:]))

    def replace_all(self) -> None:
        for old in self.backends():
            self._start(1)
            docker("stop", old.name)

    def reload(self) -> None:
        docker(*self._peer.reload, self._balancer)

    def kill_worker(self) -> None:
        raise NotImplementedError("no peer has it: it is in their lists of what they lack")

    def kill(self) -> None:
        kill_first_process(self._balancer)

    def _start(self, count: int) -> None:
        """So many more, and wait until each serves."""
        if count <= 0:
            return
        names = [f"{self._name}-backend-{self._started + one}" for one in range(1, count + 1)]
        self._started += count
        labels = {LABEL: self._name, **self._peer.labels}
        flags = [word for pair in labels.items() for word in ("--label", "=".join(pair))]

        def run(name: str) -> None:
            docker(
                *_RUN, "--name", name, "--network", self._name, *flags, BACKEND_IMAGE,
            )  # fmt: skip
            ip = address(name, self._name)
            if not wait_until(f"{ip}:{_PORT}", None, _SERVES_S):
                raise OperationError(f"{name} does not serve")

        with ThreadPoolExecutor(max_workers=4) as starting:
            list(starting.map(run, names))
