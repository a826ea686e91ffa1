"""The product as its user has it: the lbctl command, in processes of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.deadlines import scaled


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str


@dataclass
class Cli:
    """One project of one runtime, on ports of its own, in a state directory of its own."""

    project: str
    runtime: str
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    state: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="lbctl-test-")))

    def __post_init__(self) -> None:
        self.state.chmod(0o711)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("LBCTL_")}
        return inherited | {
            "LBCTL_PROJECT": self.project,
            "LBCTL_RUNTIME": self.runtime,
            "LBCTL_PORT": str(self.port),
            "LBCTL_ADMIN_PORT": str(self.admin_port),
            "LBCTL_STATE_DIR": str(self.state),
            **self.settings,
        }

    def __call__(self, *arguments: str, within: float = 90.0) -> Result:
        """Run `lbctl ARGUMENTS`."""
        done = subprocess.run(
            [sys.executable, "-m", "lbctl", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=scaled(within),
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, within: float = 90.0) -> str:
        """Run it; returns what it printed. Fails the test unless it ended well."""
        result = self(*arguments, within=within)
        assert result.status == 0, f"lbctl {' '.join(arguments)}: {result}"
        return result.out

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(get(f"{self.admin_url}/api/v1/status"))
        return document

    def processes(self, role: str) -> list[int]:
        """Pids of the lb's processes of one role, as their controller sees them."""
        return [row["pid"] for row in self.status()["processes"] if row["role"] == role]

    def backends(self, state: str = "up") -> list[dict[str, Any]]:
        return [row for row in self.status()["backends"] if row["state"] == state]

    def metric(self, name: str) -> float:
        """The sum of all samples of a metric."""
        text = get(f"{self.admin_url}/metrics")
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name}"
        return sum(float(value) for value in found)

    def logged(self) -> str:
        """What the lb of a local stack has said; under load its log is soon cut (64 MiB)."""
        log = self.state / self.project / "lb.log"
        parts = [log.with_name("lb.log.1"), log]
        return "".join(part.read_text() for part in parts if part.exists())

    def clean(self) -> None:
        """Remove the stack, whatever happened to it."""
        self("down")
        shutil.rmtree(self.state, ignore_errors=True)


def get(url: str, within: float = 5.0) -> str:
    """GET, as text. Raises OSError, also for a status that is an error and an answer cut short."""
    try:
        with urllib.request.urlopen(url, timeout=scaled(within)) as response:  # noqa: S310
            body: bytes = response.read()
    except urllib.error.HTTPError as error:
        error.close()  # it is the answer as well, and holds the connection
        raise
    except http.client.HTTPException as error:
        raise ConnectionError(f"{url}: {error!r}") from error
    return body.decode()


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk said."""

    requests: int
    not_2xx: int
    socket_errors: dict[str, int]
    unanswered: tuple[str, ...]  # of the requests beside wrk
    text: str

    @property
    def failed(self) -> int:
        return self.not_2xx + sum(self.socket_errors.values()) + len(self.unanswered)


_ANSWER_S = 5.0
"""A request that meets a host that vanished waits for one connect timeout (2 s), then another
backend answers. What takes longer than twice that hangs.
"""


WRK = ("wrk", "-t1", f"--timeout={scaled(2 * _ANSWER_S):.0f}s")
"""By itself it calls an answer late that took one connect timeout."""


class Wrk:
    """Load on a URL for `seconds`.

    wrk does not report a connection that hangs. A knocker beside it does: one request after the
    other, each of which has to be answered with 200 in time.
    """

    def __init__(self, url: str, seconds: float, connections: int = 32) -> None:
        self._process = subprocess.Popen(
            [*WRK, f"-c{connections}", f"-d{int(seconds)}s", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._url = url
        self._unanswered: list[str] = []
        self._knocker = threading.Thread(target=self._knock)
        self._knocker.start()

    def _knock(self) -> None:
        while self._process.poll() is None:
            try:
                get(self._url, within=_ANSWER_S)
            except OSError as error:
                self._unanswered.append(str(error))
            time.sleep(0.01)

    def finish(self) -> Load:
        """Wait for its end."""
        text, _ = self._process.communicate(timeout=scaled(120))
        self._knocker.join()
        assert self._process.returncode == 0, text
        requests = re.search(r"(\d+) requests in", text)
        wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        errors = re.search(
            r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text
        )
        kinds = ("connect", "read", "write", "timeout")
        counts = map(int, errors.groups()) if errors else (0, 0, 0, 0)
        return Load(
            requests=int(requests[1]) if requests else 0,
            not_2xx=int(wrong[1]) if wrong else 0,
            socket_errors=dict(zip(kinds, counts, strict=True)),
            unanswered=tuple(self._unanswered),
            text=f"{text}unanswered: {self._unanswered}",
        )
