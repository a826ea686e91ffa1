"""Who answers: three nginx processes with the same files, on the CPUs of the load generator.

The answers carry the fields of the product's own backends. What differs from their
configuration makes these cheaper, so that they are the last to be busy: files stay open, and
large ones go out in large pieces (not by sendfile, which takes more than twice the time here:
the pages of a large file are in no cache, a buffer that is used again and again is).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from typing import TYPE_CHECKING, Any

from benchmarks.compare.processes import end, pinned, wait_until
from lbctl.errors import OperationError
from lbctl.paths import PROGRAM_UID
from lbctl.runtime.nginx import find_nginx

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PORT = 8080
ADDRESSES = ("127.77.1.1", "127.77.1.2", "127.77.1.3")
POST_ANSWER = b"taken\n"
UPLOADS = "/uploads/"  # PUT a file there, and GET it again from any backend

_START_S = 10.0
_CONFIGURATION = """\
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    server_tokens off;
    default_type text/plain;
    etag off;
    if_modified_since off;
    max_ranges 0;
    open_file_cache max=64;
    keepalive_timeout 75s;
    keepalive_requests 100000000;
    client_body_buffer_size 32k;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    root {www};
    server {{
        listen {address}:{port} backlog=4096;
        add_header X-Served-By $server_addr always;
        add_header Cache-Control no-store always;
        add_header X-Content-Type-Options nosniff always;
        add_header Last-Modified "";
        location / {{ }}
        location = /healthz {{ return 200 "ok\\n"; }}
        location ~ [.]bin$ {{ output_buffers 2 512k; }}
        # `return` would answer before the body has come. The mirror reads all of it first; the
        # file's own answer to a POST, 405, is then replaced.
        location = /post {{ mirror /read; mirror_request_body on; error_page 405 =200 /taken; }}
        location = /read {{ internal; return 204; }}
        location {uploads} {{ open_file_cache off; dav_methods PUT; }}
    }}
}}
"""


def pseudorandom(size: int, seed: str) -> bytes:
    """`size` bytes that no proxy could make up; the same every time."""
    return hashlib.shake_256(seed.encode()).digest(size)


def contents() -> dict[str, bytes]:
    """The files, by target. The small one is as long as a list of three is."""
    return {
        "/list.txt": b"192.168.10.101\n192.168.10.102\n192.168.10.103\n",
        "/64k.bin": pseudorandom(64 << 10, "64k"),
        "/10m.bin": pseudorandom(10 << 20, "10m"),
        "/post": b"",
        "/taken": POST_ANSWER,
    }


def configuration(directory: Path, www: Path, address: str) -> str:
    return _CONFIGURATION.format(
        directory=directory, www=www, address=address, port=PORT, uploads=UPLOADS
    )


@contextlib.contextmanager
def running(
    directory: Path, cpus: Sequence[int], files: dict[str, bytes] | None = None
) -> Iterator[list[str]]:
    """Their addresses with ports, as long as the block runs. `files`: instead of `contents`.

    Raises MachineError if there is no nginx for it, OperationError if one does not start.
    """
    nginx = find_nginx().program
    www = directory / "www"
    (www / "uploads").mkdir(parents=True)
    for target, data in (contents() if files is None else files).items():
        (www / target.removeprefix("/")).write_bytes(data)
    homes = [directory / f"backend-{number}" for number in range(1, len(ADDRESSES) + 1)]
    for home, address in zip(homes, ADDRESSES, strict=True):
        home.mkdir()
        (home / "nginx.conf").write_text(configuration(home, www, address), encoding="utf-8")
        (home / "error.log").touch()
    user = _unprivileged(directory)
    with contextlib.ExitStack() as cleanup:
        for home, address in zip(homes, ADDRESSES, strict=True):
            argv = [nginx, "-p", str(home), "-c", str(home / "nginx.conf")]
            with (home / "output").open("wb") as output:
                process = subprocess.Popen(
                    pinned(cpus, argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    start_new_session=True, **user,
                )  # fmt: skip
            cleanup.callback(end, process)
            if not wait_until(f"{address}:{PORT}", process, _START_S):
                said = (home / "output").read_text().strip().splitlines()
                raise OperationError(f"{address}:{PORT}: no nginx: {said[-1:] or 'it is silent'}")
        yield [f"{address}:{PORT}" for address in ADDRESSES]


def _unprivileged(directory: Path) -> dict[str, Any]:
    """Whom root runs them as, as the product does; all below `directory` becomes theirs."""
    if os.geteuid() != 0:
        return {}
    for path in (directory, *directory.rglob("*")):
        os.chown(path, PROGRAM_UID, PROGRAM_UID)
    return {"user": PROGRAM_UID, "group": PROGRAM_UID, "extra_groups": []}
