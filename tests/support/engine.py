"""A second Docker engine that a test may stop and start: the machine's own is left alone.

It has a network namespace of its own, so that its bridges and packet filter rules are nobody
else's, a mount namespace, and every directory it uses below one temporary one. Its socket is
held open from outside, as systemd does for the service of Debian's package: it is the same
socket after a restart, also for those who mounted it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.deadlines import scaled, until

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS = "198.51.100.1"
"""Of the namespace, beside 127.0.0.1. What comes for it Docker forwards in the kernel (DNAT);
127.0.0.1 leads through a process that ends with the engine.
"""

_CLONE_NEWNET = 0x40000000


class Namespace:
    """A network namespace with loopback and one address."""

    def __init__(self) -> None:
        self.name = f"lbctl-{secrets.token_hex(4)}"
        _run("ip", "netns", "add", self.name)
        _run("ip", "-n", self.name, "link", "set", "lo", "up")
        _run("ip", "-n", self.name, "address", "add", f"{ADDRESS}/32", "dev", "lo")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Within the block this thread, and what it starts, is in the namespace."""
        with Path("/proc/thread-self/ns/net").open() as home:
            with Path(f"/run/netns/{self.name}").open() as there:
                _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def remove(self) -> None:
        _run("ip", "netns", "del", self.name)


class OwnEngine:
    """A dockerd of the test's own. `start` and `stop` it at will; `remove` ends all of it."""

    def __init__(self, namespace: Namespace) -> None:
        self._name = namespace.name
        self._home = Path(tempfile.mkdtemp(prefix="lbctl-engine-"))
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self._home / "docker.sock"))
        self._socket.listen(64)
        self._process: subprocess.Popen[bytes] | None = None
        # The mounts of containers that outlive a dockerd have to be there for the next one.
        self._mounts = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{namespace.name}", "unshare", "--mount", "cat"],
            stdin=subprocess.PIPE,
        )
        until(lambda: Path(f"/proc/{self._mounts.pid}/comm").read_text() == "cat\n")

    @property
    def host(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self._home / 'docker.sock'}"

    def start(self, *, live_restore: bool = False) -> None:
        """Returns when it answers. With `live_restore` its next stop leaves containers running."""
        home, handle = self._home, self._socket.fileno()
        # As systemd hands a socket over: descriptor 3, and the process's own id.
        activated = f'exec 3<&{handle}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        command = [
            "nsenter", f"--target={self._mounts.pid}", "--net", "--mount",
            "bash", "-c", activated, "engine",
            "dockerd", "-H", "fd://", f"--data-root={home}/data", f"--exec-root={home}/exec",
            f"--pidfile={home}/pid", f"--live-restore={str(live_restore).lower()}",
            # Where the machine has a containerd for all, what is in it must not be mixed.
            f"--containerd-namespace={self._name}",
            f"--containerd-plugins-namespace={self._name}-plugins",
        ]  # fmt: skip
        with (home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[handle]
            )
        until(self._answers, within=30)

    def stop(self) -> None:
        """SIGTERM, as a package's upgrade does; returns when it is gone."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(scaled(60))
        self._process = None

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Stopped within the block. What happens there must not ask it: the socket is open, and
        nobody answers.
        """
        self.stop()
        try:
            yield
        finally:
            self.start(live_restore=True)

    def load(self, *images: str) -> None:
        """Copy images of the machine's engine into this one."""
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saving:
            _run("docker", "-H", self.host, "load", "-q", stdin=saving.stdout)
        assert saving.returncode == 0

    def remove(self) -> None:
        """End its containers, itself, and its directory."""
        with contextlib.suppress(subprocess.CalledProcessError):
            if self._process is None:
                self.start()
            found = _run("docker", "-H", self.host, "ps", "-aq").split()
            if found:
                _run("docker", "-H", self.host, "rm", "-f", *found)
        if self._process is not None:
            self.stop()
        self._mounts.communicate()  # its input ends, and so does it
        self._socket.close()
        shutil.rmtree(self._home)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self._home / "log").read_text()[-2000:])
        asked = subprocess.run(
            ["docker", "-H", self.host, "version"],
            capture_output=True,
            check=False,
            timeout=scaled(30),
        )
        return asked.returncode == 0


def _run(*command: str, stdin: object = subprocess.DEVNULL) -> str:
    done = subprocess.run(
        command,
        stdin=stdin,  # type: ignore[call-overload]
        capture_output=True,
        text=True,
        check=True,
        timeout=scaled(60),
    )
    return str(done.stdout)


def _enter(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
