"""What an idle client costs a worker.

    python -m benchmarks.idle_clients --clients 10000 --bound-kib 6

Every client asks once, takes the answer and keeps its connection. Exit status 1 if the worker's
resident memory grew by more than the bound a client. What the kernel holds for a connection is
not in it.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from typing import TYPE_CHECKING

from benchmarks import alone
from benchmarks.alone import MIB, allow_files, ask
from lbctl.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Sequence

_TARGET = "/list.txt"
_BODY = b"192.168.10.101\n192.168.10.102\n192.168.10.103\n"
_SPARE_FILES = 64
_WARM_UP = 200
_AGAIN = 100
_TIMEOUT_S = 10.0
_REPORTED_S = 5.0


def main(words: Sequence[str]) -> int:
    options = _options(words)
    allow_files(options.clients + _SPARE_FILES)
    with alone.running({_TARGET: _BODY}, options.python) as lb:
        for _ in range(_WARM_UP):
            _client(lb.address, lb.port).close()
        _until_clients(lb, 0)
        before = lb.resident_bytes()
        clients = [_client(lb.address, lb.port) for _ in range(options.clients)]
        _until_clients(lb, options.clients)
        after = lb.resident_bytes()
        for client in clients[:: max(1, options.clients // _AGAIN)]:
            ask(client, _TARGET)  # they are idle, not forgotten
        for client in clients:
            client.close()
    each = (after - before) / options.clients
    print(
        f"{options.clients} idle clients\n"
        f"the worker grew from {before / MIB:.1f} to {after / MIB:.1f} MiB: by {each:.0f} bytes a "
        f"client ({each / 1024:.2f} KiB), and may by {options.bound_kib} KiB"
    )
    return 0 if each <= options.bound_kib * 1024 else 1


def _client(address: str, port: int) -> socket.socket:
    try:
        client = socket.create_connection((address, port), _TIMEOUT_S)
    except OSError as error:
        raise OperationError(f"no more connections: {error}") from None
    ask(client, _TARGET)
    return client


def _until_clients(lb: alone.Alone, count: int) -> None:
    """Until its metrics say so. Raises OperationError."""
    end_s = time.monotonic() + _REPORTED_S
    while (there := lb.clients()) != count:
        if time.monotonic() > end_s:
            raise OperationError(f"it says that it has {there} clients, not {count}")
        time.sleep(0.05)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.idle_clients", description="What an idle client costs a worker."
    )
    add = parser.add_argument
    add("--clients", type=int, default=10_000, help="[%(default)s]")
    add("--bound-kib", type=float, default=6, help="of the growth a client [%(default)s]")
    add("--python", default=sys.executable, help="the interpreter that runs lbctl [this one]")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(alone.ended(lambda: main(sys.argv[1:])))
