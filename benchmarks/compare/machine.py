"""What the figures depend on beside the proxies: the machine, and lbctl's interpreter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from benchmarks.compare.balancer import PROJECT, python_path
from benchmarks.compare.procfs import read_cpu_model
from benchmarks.compare.results import Interpreter, Machine
from lbctl import __version__
from lbctl.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT_S = 30.0
_ASK = """\
import json, platform, sysconfig, time
import uvloop
import lbctl.process.supervisor

def loop():
    began = time.perf_counter()
    total = 0
    for number in range(1_000_000):
        total += number % 7
    return time.perf_counter() - began

print(json.dumps({
    "version": f"{platform.python_implementation()} {platform.python_version()}",
    "uvloop": uvloop.__version__,
    "optimised": "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""),
    "loop_ms": round(min(loop() for _ in range(5)) * 1000, 1),
}))
"""


def look() -> Machine:
    version = os.uname().release.partition("-")[0]
    return Machine(read_cpu_model(), os.cpu_count() or 0, f"Linux {version}")


def interpreter(python: str, directory: Path) -> Interpreter:
    """Ask it, as lbctl will be run by it. Raises MachineError if it cannot run lbctl."""
    try:
        done = subprocess.run(
            [python, "-c", _ASK], env={"PYTHONPATH": python_path()}, cwd=directory,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S,
            check=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise MachineError(
            f"{python} cannot run lbctl: {last[0]}\n"
            "its dependencies are those of the interpreter that runs this, of the same version"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"{python} does not run: {error}") from None
    return Interpreter(**json.loads(done.stdout))


def lbctl_version() -> str:
    """With the commit, where this is a checkout and git is there."""
    git = shutil.which("git")
    if git is None or not (PROJECT / ".git").exists():
        return __version__

    def ask(*words: str) -> str:
        done = subprocess.run(
            [git, "-C", str(PROJECT), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = " with local changes" if ask("status", "--porcelain", "src") else ""
    return f"{__version__} (commit {ask('rev-parse', '--short', 'HEAD')}{changed})"
