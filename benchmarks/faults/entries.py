"""Every column of the table, in its order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.compare.machine import lbctl_version
from benchmarks.faults import ours, peers
from benchmarks.faults.stacks import Entry
from lbctl.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

NAMES = ("lbctl", "traefik", "traefik-advised", "haproxy", "haproxy-advised")
_VERSION = re.compile(r"\d+\.\d+\.\d+[\w.+~-]*")


def entry(name: str, tools: Path) -> Entry:
    """One of NAMES. `tools`: where to look for programs first. Raises MachineError."""
    if name == "lbctl":
        return Entry(name, "lbctl", lbctl_version(), ours.LbctlStack, ours.lacks())
    if name.startswith("traefik"):
        program = _find("traefik", tools, "make faults installs it")
        return _peer(name, "Traefik", program, "version", peers.traefik, peers.TRAEFIK_LACKS)
    program = _find("haproxy", tools, "apt-get install haproxy")
    return _peer(name, "HAProxy", program, "-v", peers.haproxy, peers.HAPROXY_LACKS)


def _peer(
    name: str,
    title: str,
    program: str,
    version: str,
    make: Callable[..., peers.Peer],
    lacks: Mapping[str, str],
) -> Entry:
    advised = name.endswith("-advised")
    peer = make(program, advised=advised)
    title = f"{title}, advised" if advised else title
    return Entry(name, title, _ask(program, version), partial(peers.PeerStack, peer), lacks)


def _find(program: str, tools: Path, how: str) -> str:
    path = os.pathsep.join((str(tools), os.environ.get("PATH", ""), "/usr/sbin"))
    found = shutil.which(program, path=path)
    if found is None:
        raise MachineError(f"{program} is not installed\n{how}")
    return os.path.abspath(found)  # noqa: PTH100 - a link is kept: the engine mounts what it is


def _ask(program: str, word: str) -> str:
    done = subprocess.run([program, word], capture_output=True, text=True, timeout=20, check=False)
    found = _VERSION.search(done.stdout)
    return found[0] if found else ""
