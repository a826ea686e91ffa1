"""Finding an nginx on this machine that can be a backend."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

from lbctl.errors import MachineError

_VERSION: Final = re.compile(r"nginx version: \S+?/(\d+(?:\.\d+)*)")
# Administrators' programs are not on the PATH of every user.
_ALSO: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_INSTALL: Final = (
    ("apt-get", "apt-get install nginx-light"),
    ("apk", "apk add nginx"),
    ("dnf", "dnf install nginx"),
    ("zypper", "zypper install nginx"),
    ("pacman", "pacman -S nginx"),
)


_MODULES: Final = ("http_dav", "http_secure_link")
"""What nginx.conf.template uses of what is not in every nginx."""


@dataclass(frozen=True, slots=True)
class Nginx:
    """An nginx with the modules that a backend needs."""

    program: str
    version: str


def find_nginx() -> Nginx:
    """The first nginx on PATH, or in the usual places beside it.

    Raises MachineError where there is none, or it lacks a module; the second line is the
    command that installs one.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_ALSO))
    program = shutil.which("nginx", path=path)
    if program is None:
        raise MachineError(f"no nginx is installed\n{install_command()}")
    try:
        told = subprocess.run(  # noqa: S603 - the program that PATH names
            [program, "-V"], capture_output=True, text=True, timeout=10, check=False
        ).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"{program} does not run: {error}") from None
    for module in _MODULES:
        if f"{module}_module" not in told:
            command = install_command()
            if module == "http_secure_link":  # Debian had it in this package alone, until 12
                command = command.replace("nginx-light", "nginx-extras")
            raise MachineError(f"{program} is built without {module}\n{command}")
    version = _VERSION.search(told)
    return Nginx(program, version[1] if version else "?")


def install_command() -> str:
    """The command that installs such an nginx here, to be typed by a person."""
    prefix = "" if os.geteuid() == 0 else "sudo "
    for manager, command in _INSTALL:
        if shutil.which(manager):
            return f"install one: {prefix}{command}"
    return f"install one that has the modules {' and '.join(_MODULES)}"
