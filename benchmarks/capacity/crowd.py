"""Many backends: memory of the processes, the controller's CPU at rest, and how soon a new list is
on all of them.

    python -m benchmarks.capacity.crowd 1000        # an lb in front of that many; see `measured`

All of them are addresses of one nginx, which takes lists as a backend does, but for the token. The
lb is the product's own, with backends that are given (benchmarks.given).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import given
from benchmarks.capacity.results import Crowd
from benchmarks.compare import balancer, wrk
from benchmarks.compare.processes import Place, end, pinned, serving, wait_until
from benchmarks.compare.procfs import read_resident_bytes, read_tree, spent
from lbctl.errors import LbctlError, OperationError, UsageError
from lbctl.model import Backend
from lbctl.runtime.nginx import find_nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.compare.processes import Cores

MOST = 10_000
_ADMIN_PORT = 9000
_PORT = 8080
_A_BLOCK = 250
_START_S = 20.0
_ROTATION_S = 120.0
_ANSWER_S = 60.0
_CONNECTIONS = 64
_LOAD_S = 3
_SHARE_S = 5.0
_CONFIGURATION = """\
worker_processes 1;
worker_rlimit_nofile 65536;
daemon off;
user root;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 32768; }}
http {{
    access_log off;
    etag off;
    keepalive_timeout 75s;
    keepalive_requests 100000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    root {directory}/www/$server_addr;
    server {{
{public}
        location = / {{ try_files /ips.txt =404; }}
        location / {{ }}
        location = /healthz {{ return 200 "ok\\n"; }}
    }}
    server {{
{admin}
        location / {{ dav_methods PUT; }}
    }}
}}
"""


def address(number: int) -> str:
    """Of the backend of this number, from 0 on."""
    block, place = divmod(number, _A_BLOCK)
    return f"127.79.{block}.{place + 1}"


def backend(number: int) -> Backend:
    name = f"backend-{number + 1}"
    return Backend(name, name, address(number), _PORT, _ADMIN_PORT)


def configuration(directory: Path, count: int) -> str:
    """nginx's, for so many backends."""

    def listen(port: int) -> str:
        return "\n".join(f"        listen {address(n)}:{port};" for n in range(count))

    return _CONFIGURATION.format(
        directory=directory, public=listen(_PORT), admin=listen(_ADMIN_PORT)
    )


@contextlib.contextmanager
def backends(directory: Path, cores: Cores, count: int) -> Iterator[None]:
    """They run as long as the block does. Raises MachineError or OperationError."""
    program = find_nginx().program
    for number in range(count):
        (directory / "www" / address(number)).mkdir(parents=True)
    file = directory / "nginx.conf"
    file.write_text(configuration(directory, count), encoding="utf-8")
    argv = pinned(cores.load, [program, "-p", str(directory), "-c", str(file)])
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        if not wait_until(f"{address(count - 1)}:{_PORT}", process, _START_S):
            said = (directory / "output").read_text().strip().splitlines()[-1:]
            raise OperationError(f"no nginx with {count} addresses: {said or 'it is silent'}")
        yield
    finally:
        end(process)


def measured(
    directory: Path, lb_address: str, cores: Cores, python: str, count: int, changes: int
) -> Crowd:
    """With so many backends, and `changes` drains and undrains. Raises OperationError."""
    directory.mkdir(mode=0o711)
    home = directory / "backends"
    home.mkdir(mode=0o711)
    place = Place(directory / "lb", lb_address, [str(count)], Path(), cores)
    plan = balancer.given(place, python)
    plan = replace(plan, argv=[python, "-m", "benchmarks.capacity.crowd", str(count)])
    with backends(home, cores, count):
        began = time.monotonic()
        with serving(plan, place) as running:
            asked = _Asked(place)
            status = asked.until_in_rotation(count)
            ready_s = time.monotonic() - began
            pids = {one["role"]: one["pid"] for one in status["processes"]}
            checking = _share(running.pid, pids["controller"])
            _load(place)  # what a worker knows of a backend it makes with the first request
            spreads = [asked.change(verb) for _ in range(changes) for verb in ("drain", "undrain")]
            return Crowd(
                count,
                ready_s,
                read_resident_bytes(pids["worker"]),
                read_resident_bytes(pids["controller"]),
                checking,
                median(spreads),
                max(spreads),
            )


def _load(place: Place) -> None:
    """Until every backend has been asked often. Raises OperationError."""
    script = place.directory / "report.lua"
    script.write_text(wrk.script(), encoding="utf-8")
    argv = wrk.command(f"http://{place.listens}/ips.txt", _CONNECTIONS, _LOAD_S, str(script))
    load = wrk.run(pinned(place.cores.load, argv), _LOAD_S)
    if load.errors:
        raise OperationError(f"under load: {load.errors}")


def _share(root: int, pid: int) -> float:
    """The part of a CPU that one process takes."""
    before = read_tree(root)
    began = time.monotonic()
    time.sleep(_SHARE_S)
    after = read_tree(root)
    took_s = time.monotonic() - began
    return spent({pid: before[pid]}, {pid: after[pid]}).total_s / took_s


class _Asked:
    """The lb's admin port."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._token = (place.directory / "state" / "bench" / "admin-token").read_text().strip()

    def until_in_rotation(self, count: int) -> dict[str, Any]:
        """The status when so many are. Raises OperationError."""
        deadline = time.monotonic() + _ROTATION_S
        while True:
            status: dict[str, Any] = json.loads(self._ask("GET", "/api/v1/status"))
            if status["in_rotation"] == count:
                return status
            if time.monotonic() > deadline:
                raise OperationError(f"{status['in_rotation']} of {count} are in rotation")
            time.sleep(0.1)

    def change(self, verb: str) -> float:
        """Take the first backend out or in; seconds that a new list took, on average."""
        before = self._publications()
        self._ask("POST", f"/api/v1/backends/backend-1/{verb}", b"{}")
        deadline = time.monotonic() + _ANSWER_S
        while (after := self._publications())[0] == before[0]:
            if time.monotonic() > deadline:
                raise OperationError(f"no new list after {verb}")
            time.sleep(0.02)
        return (after[1] - before[1]) / (after[0] - before[0])

    def _publications(self) -> tuple[float, float]:
        """How many there were, and how long they took together."""
        text = self._ask("GET", "/metrics").decode()
        return (
            _sample(text, "lbctl_publish_duration_seconds_count"),
            _sample(text, "lbctl_publish_duration_seconds_sum"),
        )

    def _ask(self, method: str, target: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(
            self._place.address, self._place.admin_port, timeout=_ANSWER_S
        )
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise OperationError(f"{method} {target}: {error!r}") from None
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise OperationError(f"{method} {target}: {response.status} {data[:200]!r}")
        return data


def _sample(text: str, name: str) -> float:
    """Of a metric without labels; 0 where it is not there yet."""
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def main(words: list[str]) -> int:
    """Serve in front of so many until SIGTERM. Returns the exit status."""
    try:
        count = int(words[0]) if len(words) == 1 and words[0].isdecimal() else 0
        if not 1 <= count <= MOST:
            raise UsageError(f"say how many backends: a number from 1 to {MOST}")
        return given.serve([backend(number) for number in range(count)])
    except LbctlError as error:
        print(f"benchmarks.capacity.crowd: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
