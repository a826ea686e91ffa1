"""A backend's nginx as a plain process, for tests; and a client that hides nothing."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbctl.assets import NginxSite, initial_files, render_nginx
from lbctl.core.credentials import token_of
from lbctl.model import Backend
from lbctl.paths import PROGRAM_UID
from tests.support.credentials import admit
from tests.support.deadlines import scaled, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NGINX = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")


# The local runtime runs nginx as this user too, where it is root.
_UNPRIVILEGED: dict[str, Any] = (
    {"user": PROGRAM_UID, "group": PROGRAM_UID, "extra_groups": []} if os.geteuid() == 0 else {}
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. The names of `fields` are in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes


def ask(
    ip: str,
    port: int,
    method: str,
    target: str,
    *,
    fields: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """One request on a connection of its own, sent as it is given. Raises OSError."""
    connection = http.client.HTTPConnection(ip, port, timeout=scaled(5))
    try:
        # A server may answer before it has read the whole body, and close.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, target, body, dict(fields or {}))
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    names = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, names, data)


@dataclass(frozen=True, slots=True)
class RunningNginx:
    """One that serves. `token` opens its admin port; `known` is the file by which it knows that."""

    ip: str
    token: str
    known: Path
    site: NginxSite
    process: subprocess.Popen[bytes]

    @property
    def list_file(self) -> Path:
        return self.site.directory / "www" / "ips.txt"

    def serves(self) -> bool:
        return ask(self.ip, 8080, "GET", "/healthz").status == 200


def lay_out(site: NginxSite) -> Path:
    """Make the directory of a backend; returns its configuration."""
    www = site.directory / "www"
    for directory in (site.directory, www, site.directory / "tmp"):
        directory.mkdir(exist_ok=True)
    for name, data in initial_files().items():
        (www / name).write_bytes(data)
    site.error_log.touch()
    configuration = site.directory / "nginx.conf"
    configuration.write_text(render_nginx(site), encoding="utf-8")
    if os.geteuid() == 0:
        for path in (site.error_log, site.directory, *site.directory.rglob("*")):
            os.chown(path, PROGRAM_UID, PROGRAM_UID)
    return configuration


@contextlib.contextmanager
def running_nginx(ip: str, tokens: Path | None = None) -> Iterator[RunningNginx]:
    """An nginx on ports 8080 and 9000 of a loopback address that no other test uses. Those of a
    project share `tokens`.
    """
    assert NGINX is not None
    token = token_of(secrets.token_hex(32), Backend("tested", "tested", ip))
    # Not pytest's tmp_path: nginx's workers are another user, whom it does not let through.
    root = Path(tempfile.mkdtemp(prefix="lbctl-nginx-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        root.chmod(0o711)
        if tokens is None:
            tokens = root / "tokens"
            tokens.mkdir(mode=0o711)
        known = admit(tokens, token, ip)
        site = NginxSite(
            public=f"{ip}:8080",
            admin=f"{ip}:9000",
            directory=root / "backend",
            tokens=tokens,
            error_log=root / "error.log",
        )
        process = subprocess.Popen([NGINX, "-c", str(lay_out(site))], **_UNPRIVILEGED)
        running = RunningNginx(ip, token, known, site, process)
        until(running.serves, within=5)
        yield running
    finally:
        if process is not None:
            process.terminate()
            process.wait(scaled(5))
        shutil.rmtree(root)
