"""What a worker holds in memory for clients who read more slowly than backends send.

    python -m benchmarks.slow_readers --readers 100 --size-mib 100 --bound-mib 32

Every reader asks for the whole file and takes it at its own slow pace; every byte is compared.
Exit status 1 if the worker's resident memory grew by more than the bound.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from typing import TYPE_CHECKING

from benchmarks import alone
from benchmarks.alone import MIB
from benchmarks.compare.backends import pseudorandom
from lbctl.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Sequence

_TARGET = "/large.bin"
_TICK_S = 0.05
_HEAD_END = b"\r\n\r\n"
_TIMEOUT_S = 10.0


class Reader:
    """One slow client of a file that is `block`, again and again, `size` bytes in all."""

    def __init__(self, address: str, port: int, block: bytes, size: int) -> None:
        """Raises OSError."""
        self._block = block
        self._size = size
        self._head = b""
        self.received = 0  # bytes of the body
        self._socket = socket.create_connection((address, port), _TIMEOUT_S)
        self._socket.sendall(f"GET {_TARGET} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        self._socket.setblocking(False)

    def read(self, most: int) -> None:
        """Take what is there, `most` bytes of it. Raises OperationError for a wrong answer."""
        if self.received == self._size:
            return
        try:
            data = self._socket.recv(most)
        except BlockingIOError:
            return
        except OSError as error:
            raise OperationError(f"after {self.received} bytes: {error.strerror}") from None
        if not data:
            raise OperationError(f"closed after {self.received} bytes of {self._size}")
        if not self._head.endswith(_HEAD_END):
            before, end, data = (self._head + data).partition(_HEAD_END)
            self._head = before + end
            if end and not before.startswith(b"HTTP/1.1 200 "):
                raise OperationError(f"answered {before[:60]!r}")
            if not end:
                return
        self._compare(data)

    def _compare(self, data: bytes) -> None:
        place = self.received % len(self._block)
        copies = -(-(place + len(data)) // len(self._block))
        if data != (self._block * copies)[place : place + len(data)]:
            raise OperationError(f"wrong bytes after {self.received} right ones")
        self.received += len(data)

    def close(self) -> None:
        self._socket.close()


def main(words: Sequence[str]) -> int:
    options = _options(words)
    size = options.size_mib * MIB
    block = pseudorandom(MIB, "slow readers")
    with alone.running({_TARGET: block * options.size_mib}, options.python) as lb:
        before = most = lb.resident_bytes()
        readers = [Reader(lb.address, lb.port, block, size) for _ in range(options.readers)]
        end_s = time.monotonic() + options.seconds
        share = max(1, int(options.rate_kib * 1024 * _TICK_S))
        while (now_s := time.monotonic()) < end_s:
            for reader in readers:
                reader.read(share)
            most = max(most, lb.resident_bytes())
            time.sleep(max(0.0, now_s + _TICK_S - time.monotonic()))
        held = lb.clients()
        for reader in readers:
            reader.close()
    if not all(reader.received for reader in readers) or held < options.readers:
        raise OperationError(f"only {held} of {options.readers} readers were being served")
    read = sum(reader.received for reader in readers)
    grown = most - before
    print(
        f"{options.readers} readers of a {options.size_mib} MiB file, {options.rate_kib} KiB/s "
        f"each at most, for {options.seconds} s\n"
        f"they have read {read / MIB:.0f} MiB, every byte right\n"
        f"the worker grew from {before / MIB:.1f} to {most / MIB:.1f} MiB at most: by "
        f"{grown / MIB:.1f} MiB, and may by {options.bound_mib}"
    )
    return 0 if grown <= options.bound_mib * MIB else 1


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.slow_readers",
        description="What a worker holds for clients who read slowly.",
    )
    add = parser.add_argument
    add("--readers", type=int, default=100, help="[%(default)s]")
    add("--size-mib", type=int, default=100, help="of the file [%(default)s]")
    add("--rate-kib", type=int, default=256, help="a second and reader [%(default)s]")
    add("--seconds", type=int, default=10, help="[%(default)s]")
    add("--bound-mib", type=float, default=32, help="of the growth [%(default)s]")
    add("--python", default=sys.executable, help="the interpreter that runs lbctl [this one]")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(alone.ended(lambda: main(sys.argv[1:])))
