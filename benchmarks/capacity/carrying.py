"""Load on one worker: how much it carries, what a request costs, what an idle client holds."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from dataclasses import dataclass, replace
from statistics import median_low
from typing import TYPE_CHECKING

from benchmarks.alone import ask
from benchmarks.capacity.results import Carried, Resting
from benchmarks.compare import balancer, wrk
from benchmarks.compare.processes import pinned, serving
from benchmarks.compare.procfs import read_resident_bytes, read_tree, spent
from lbctl.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.compare.processes import Place

TARGET = "/list.txt"
TLS_PORT = 8443
CONNECTIONS = 64
_PACED_CONNECTIONS = 256
_WARM_UP_S = 1
_WARM_UP_CLIENTS = 100
_TIMEOUT_S = 10.0
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of load. `rate`: requests a second, 0 for as many as there can be."""

    title: str
    tls: bool = False
    close: bool = False
    logs: bool = False


KINDS = (
    Kind("keep-alive"),
    Kind("keep-alive, access log", logs=True),
    Kind("a new connection for each", close=True),
    Kind("keep-alive, TLS", tls=True),
    Kind("a new TLS connection for each (ECDSA P-256)", tls=True, close=True),
)


class Carrier:
    """Measures one worker in front of the place's backends. `tell` hears of each turn."""

    def __init__(
        self, place: Place, python: str, rounds: int, seconds: int, tell: Callable[[str], None]
    ) -> None:
        self._place = place
        self._python = python
        self._rounds = rounds
        self._seconds = seconds
        self._tell = tell
        self._certificate = place.directory / "certificate.pem"

    def carried(self) -> Iterator[Carried]:
        """One row a kind, and one at half of the first one's rate. Raises OperationError."""
        self._make_certificate()
        most = 0.0
        for logs in (False, True):
            with self._lb(logs=logs) as pid:
                for kind in (kind for kind in KINDS if kind.logs is logs):
                    row = self._median(kind.title, pid, self._command(kind))
                    most = most or row.requests_per_s
                    yield row
        with self._lb() as pid:
            title = f"keep-alive, at half of the first row's rate, {_PACED_CONNECTIONS} connections"
            yield self._median(title, pid, self._paced(most * _HALF))

    def resting(self, counts: Sequence[int], tls_count: int) -> Iterator[Resting]:
        """What idle clients hold, so many at a time. Raises OperationError."""
        for count in counts:
            self._tell(f"{count} idle clients")
            yield Resting("plain", count, self._held(count, tls=False))
        self._tell(f"{tls_count} idle clients over TLS")
        yield Resting("TLS", tls_count, self._held(tls_count, tls=True))

    @contextlib.contextmanager
    def _lb(self, *, logs: bool = False) -> Iterator[int]:
        """The pid of an lb that serves, in plain and over TLS."""
        plan = balancer.given(self._place, self._python, logs=logs)
        more = {"LBCTL_TLS_CERT": str(self._certificate), "LBCTL_TLS_PORT": str(TLS_PORT)}
        with serving(replace(plan, env={**plan.env, **more}), self._place) as running:
            yield running.pid

    def _make_certificate(self) -> None:
        key = self._place.directory / "key.pem"
        done = subprocess.run(
            [
                self._place.program("openssl"), "req", "-x509", "-newkey", "ec", "-nodes",
                "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2", "-subj", "/CN=bench",
                "-addext", "subjectAltName=DNS:bench", "-keyout", str(key),
                "-out", str(self._certificate),
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise OperationError(f"no certificate: {done.stderr.strip()[-200:]}")
        with self._certificate.open("a", encoding="ascii") as file:
            file.write(key.read_text(encoding="ascii"))
        self._certificate.chmod(0o600)

    def _url(self, *, tls: bool) -> str:
        if tls:
            return f"https://{self._place.address}:{TLS_PORT}{TARGET}"
        return f"http://{self._place.listens}{TARGET}"

    def _command(self, kind: Kind) -> Callable[[int], list[str]]:
        script = self._script("report.lua", wrk.script())
        url = self._url(tls=kind.tls)
        return lambda seconds: wrk.command(url, CONNECTIONS, seconds, script, close=kind.close)

    def _paced(self, rate: float) -> Callable[[int], list[str]]:
        script = self._script("paced.lua", paced(rate, _PACED_CONNECTIONS))
        url = self._url(tls=False)
        return lambda seconds: wrk.command(url, _PACED_CONNECTIONS, seconds, script)

    def _script(self, name: str, text: str) -> str:
        file: Path = self._place.directory / name
        file.write_text(text, encoding="utf-8")
        return str(file)

    def _median(self, title: str, pid: int, command: Callable[[int], list[str]]) -> Carried:
        """Of the rounds, the one in the middle by what a request cost."""
        cpus = self._place.cores.load
        wrk.run(pinned(cpus, command(_WARM_UP_S)), _WARM_UP_S)
        rows = []
        for number in range(1, self._rounds + 1):
            self._tell(f"{title}: round {number}")
            before = read_tree(pid)
            load = wrk.run(pinned(cpus, command(self._seconds)), self._seconds)
            cost = spent(before, read_tree(pid))
            if load.errors or not load.requests:
                raise OperationError(f"{title}: {load.errors or 'no answer'}")
            rows.append(
                Carried(
                    title,
                    load.requests / load.duration_s,
                    cost.total_s / load.requests * 1e6,
                    load.p50_us / 1000,
                    load.p99_us / 1000,
                )
            )
        middle = median_low([row.cpu_us for row in rows])
        return next(row for row in rows if row.cpu_us == middle)

    def _held(self, count: int, *, tls: bool) -> float:
        """Bytes that a client at rest costs the worker."""
        with self._lb() as pid, contextlib.ExitStack() as open_ends:
            worker = busiest_child(pid)
            for _ in range(_WARM_UP_CLIENTS):
                with self._client(tls=tls) as client:
                    ask(client, TARGET)
            before = read_resident_bytes(worker)
            for _ in range(count):
                ask(open_ends.enter_context(self._client(tls=tls)), TARGET)
            return (read_resident_bytes(worker) - before) / count

    def _client(self, *, tls: bool) -> socket.socket:
        try:
            if not tls:
                return socket.create_connection((self._place.address, self._place.port), _TIMEOUT_S)
            plain = socket.create_connection((self._place.address, TLS_PORT), _TIMEOUT_S)
            context = ssl.create_default_context(cafile=str(self._certificate))
            return context.wrap_socket(plain, server_hostname="bench")
        except OSError as error:
            raise OperationError(f"no more connections: {error}") from None


def busiest_child(pid: int) -> int:
    """The worker, of an lb that has one: what was started first by its supervisor."""
    children = sorted(one.pid for one in read_tree(pid).values() if one.parent == pid)
    if not children:
        raise OperationError("the lb has no worker")
    return children[0]


def paced(rate: float, connections: int) -> str:
    """wrk's script for about so many requests a second in all: each connection waits before each
    request, between nothing and twice the pause that makes the rate.
    """
    if rate <= 0:
        raise OperationError("there is no rate to take half of")
    most_ms = max(1, round(2000 * connections / rate))
    return (
        f"function delay()\n  return math.random(0, {most_ms})\nend\n"
        f"function init(args)\n  math.randomseed(os.time())\nend\n{wrk.script()}"
    )
