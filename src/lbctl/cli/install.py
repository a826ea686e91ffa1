"""`lbctl up --install`: give a machine that has nothing to run backends on an nginx.

Only as root, only on Debian and Ubuntu, only where backends would be plain processes and there
is no nginx with the modules for them; and it says so. Everywhere else the command to type is told.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lbctl.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from lbctl.cli.screen import Screen, Steps

_POLICY: Final = Path("/usr/sbin/policy-rc.d")
_NO_SERVICES: Final = "#!/bin/sh\nexit 101\n"
_PACKAGE: Final = "nginx-light"
_READ_S: Final = 1.0
_TOLD: Final = re.compile(r"(?:dl|pm)status:.*?:(?P<percent>\d+(?:\.\d+)?):(?P<text>.*)")


def may_install() -> bool:
    """Whether installing is lbctl's to do here."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def nginx(screen: Screen) -> None:
    """Install it, and say so; the web server it would start on port 80 stays off.

    Raises OperationError where that failed.
    """
    screen.tell(f"no nginx that can be a backend on this machine: installing {_PACKAGE}")
    command = ["install", "--yes", "--quiet", "--no-install-recommends", _PACKAGE]
    with _no_services_started(), screen.steps("apt-get") as steps:
        # The first try needs no network where the package lists are fresh.
        if not _apt(command, steps) and not (_apt(["update"], steps) and _apt(command, steps)):
            raise OperationError(
                f"apt-get could not install {_PACKAGE}; try it by hand:\n"
                f"apt-get update && apt-get install {_PACKAGE}"
            )
    if Path("/run/systemd/system").is_dir():
        _runs(["systemctl", "disable", "--quiet", "nginx.service"])


def _apt(arguments: list[str], steps: Steps) -> bool:
    """Whether apt-get did it. How far it is, it tells itself (apt's progress-reporting.md); where
    it did not, its errors are shown.
    """
    told, tells = os.pipe()
    lines = os.fdopen(told, encoding="utf-8", errors="replace")
    reader = threading.Thread(target=_show, args=(lines, steps), daemon=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            reader.start()
            command = ["apt-get", "-o", f"APT::Status-Fd={tells}", *arguments]
            done = _runs(command, errors, tells)
        finally:
            os.close(tells)
            reader.join(_READ_S)  # not for ever: what apt-get leaves running may hold its end
        errors.seek(0)
        for line in () if done else errors:
            steps.note(line.rstrip())
    return done


def _show(lines: TextIO, steps: Steps) -> None:
    with lines:
        for line in lines:
            if found := _TOLD.match(line):
                steps.part(float(found["percent"]), 100, found["text"])


def _runs(command: list[str], errors: TextIO | None = None, *descriptors: int) -> bool:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    # Its output would drown the one line that says what goes on; errors are seen.
    done = subprocess.run(  # noqa: S603 - fixed commands
        command,
        env=environment,
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        check=False,
    )
    return done.returncode == 0


@contextlib.contextmanager
def _no_services_started() -> Iterator[None]:
    """Debian's own switch (invoke-rc.d(8)): with this file, packages start no service."""
    if _POLICY.exists():  # somebody decides this already
        yield
        return
    _POLICY.write_text(_NO_SERVICES, encoding="ascii")
    try:
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
