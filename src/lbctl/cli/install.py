"""`lbctl doctor --fix`: give a machine on which nothing can run an nginx.

Only as root, only on Debian and Ubuntu, only where there is neither a Docker engine nor an
nginx with http_dav; and it says so. Everywhere else it ends with the command to type.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lbctl.cli import resolve
from lbctl.errors import MachineError, OperationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.cli.session import Session
    from lbctl.config import Config

_POLICY: Final = Path("/usr/sbin/policy-rc.d")
_NO_SERVICES: Final = "#!/bin/sh\nexit 101\n"
_PACKAGE: Final = "nginx-light"


async def fix(session: Session, settings: Config) -> int:
    """Return 0 as soon as lbctl can run here. Says nothing where it can already.

    Raises MachineError with the command to type where installing is not lbctl's to do, and
    OperationError where it failed.
    """
    async with session.stacks(settings) as (facts, _):
        try:
            resolve.for_up(facts)
        except MachineError:
            if settings.runtime == "docker" or not _may_install():
                raise
        else:
            return 0
    session.screen.tell(f"no Docker engine and no nginx on this machine: installing {_PACKAGE}")
    _install()
    problem = session.runtimes.nginx_problem()
    if problem:
        raise MachineError(problem)
    return 0


def _may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _install() -> None:
    """Install the package; the web server it would start on port 80 stays off."""
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", _PACKAGE]
    with _no_services_started():
        # The first try needs no network where the package lists are fresh.
        if not _runs(command) and not (_runs(["apt-get", "update"]) and _runs(command)):
            raise OperationError(
                f"apt-get could not install {_PACKAGE}; try it by hand:\n"
                f"apt-get update && apt-get install {_PACKAGE}"
            )
    if Path("/run/systemd/system").is_dir():
        _runs(["systemctl", "disable", "--quiet", "nginx.service"])


def _runs(command: list[str]) -> bool:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    # Its output would drown the one line that says what goes on; errors are seen.
    done = subprocess.run(  # noqa: S603 - fixed commands
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False
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
