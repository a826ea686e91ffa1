"""slowhttptest (Debian has it): four ways to hold connections open with next to no traffic.

Beside it, a client knocks all the time, and the target's connections are counted (slowhttptest's
own count misses resets). What is asked for: every knock is answered, and the attackers'
connections are ended before the attack is over.

lbctl runs with its timeouts shortened to SHORT, so that an attack of 20 s outlasts them.

    python -m tests.conformance.slowhttp --target lbctl --target haproxy
"""

from __future__ import annotations

import argparse
import http
import http.client
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Self

from tests.conformance import targets

SHORT = {"LBCTL_HEAD_TIMEOUT_S": "3", "LBCTL_BODY_IDLE_TIMEOUT_S": "3"}
MODES = {
    "slow head": ("/", "-H", "-i", "1", "-x", "24"),
    "slow body": ("/", "-B", "-i", "1", "-x", "10", "-s", "8192"),
    "ranges": ("/", "-R", "-t", "HEAD", "-a", "1000", "-b", "3000"),
    "slow read": ("/bytes/2500000", "-X", "-n", "1", "-w", "512", "-y", "1024", "-z", "32"),
}
"""Target and arguments by mode. Something is sent, or read, every second.

The answer to the slow reader is larger than what a kernel takes off a proxy's hands (it was 1.7 MB
on Linux 6): of one that is not, the proxy sees no end that is late.
"""

_KNOCK_EVERY_S = 0.2
_KNOCK_WITHIN_S = 5.0  # as slowhttptest's own probe
_OVERHEAD_S = 30.0  # of slowhttptest beside the attack itself


def held(port: int) -> int:
    """Connections to a port of this machine that their server holds open.

    /proc/net/tcp has them too, but is slow where many connections have just ended.
    """
    command = [targets.program("ss"), "--no-header", "--tcp", "--numeric"]
    command += ["state", "established", "state", "close-wait", f"( sport = :{port} )"]
    listed = subprocess.run(command, capture_output=True, check=True, timeout=_OVERHEAD_S)
    return listed.stdout.count(b"\n")


@dataclass
class Watch:
    """Knocks, and counts connections, in a thread of its own."""

    address: targets.Address
    unanswered: list[str] = field(default_factory=list)  # what came instead
    slowest_s: float = 0.0
    held: list[tuple[float, int]] = field(default_factory=list)  # (s since the start, count)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(_KNOCK_EVERY_S):
            started = time.monotonic()
            self.held.append((started - began, held(self.address.port)))
            started = time.monotonic()
            try:
                self._knock()
            except (OSError, http.client.HTTPException) as error:
                self.unanswered.append(repr(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)

    def _knock(self) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=_KNOCK_WITHIN_S)
        try:
            connection.request("GET", "/")
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != http.HTTPStatus.OK:
            raise http.client.HTTPException(status)


def judge(target: targets.Target, mode: str, options: argparse.Namespace) -> bool:
    """Runs one attack and prints what it did; whether the target stood it."""
    path, *arguments = MODES[mode]
    command = [targets.program("slowhttptest"), *arguments]
    command += ["-c", str(options.connections), "-r", str(options.connections)]
    command += ["-l", str(options.seconds), "-u", f"http://{target.address}{path}"]
    began = time.monotonic()
    with Watch(target.address) as watch:
        targets.run(command, within_s=options.seconds + _OVERHEAD_S)
    took_s = time.monotonic() - began
    # It ends early where nobody is left; else the last look before the end tells.
    end_s = options.seconds - 1
    counts = [count for at_s, count in watch.held if at_s <= end_s]
    left = 0 if took_s < end_s or not counts else counts[-1]
    many = options.connections // 10
    over_s = min(took_s, next((at_s for at_s, n in reversed(watch.held) if n > many), 0.0))
    stood = left <= many and not watch.unanswered
    print(
        f"{target.name}, {mode}: {'stood' if stood else 'FAILED'}; "
        f"{len(watch.held)} knocks, {len(watch.unanswered)} unanswered, "
        f"slowest {watch.slowest_s:.2f} s; held at most {max(counts, default=0)} connections, "
        + (f"{left} at the end" if left > many else f"more than {many} until {over_s:.0f} s")
    )
    for what in sorted(set(watch.unanswered)):
        print(f"  a knock met {what}")
    return stood


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=20, help="of each attack")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--mode", action="append", choices=MODES, help="default: all of them")
    targets.add_target_option(parser)
    options = parser.parse_args()
    failed = False
    with targets.each(targets.chosen(options), environment=SHORT) as started:
        for target in started:
            verdicts = [judge(target, mode, options) for mode in options.mode or MODES]
            failed |= not all(verdicts) and target.name not in targets.PEERS
    return int(failed)


if __name__ == "__main__":
    targets.entry(main)
