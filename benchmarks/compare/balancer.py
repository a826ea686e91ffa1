"""lbctl itself, in three positions.

- As the peers are: supervisor, controller and one worker, with all defaults, in front of the
  same backends (`benchmarks.given`, which replaces discovery and nothing else).
- As `lbctl up` starts it, with three backends of its own, to show that it makes no difference.
- In its container, on the host's network; and HAProxy in the same position, in a container of
  the same image, with the host's programs mounted.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.compare import peers
from benchmarks.compare.processes import Plan, Running, environment, lay_out, pinned, wait_until
from benchmarks.compare.procfs import read_tree
from lbctl.errors import MachineError, OperationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.compare.processes import Place

PROJECT = Path(__file__).resolve().parents[2]
IMAGE = "lbctl-lb"
_COMMAND_S = 60.0
_START_S = 20.0
_NGINX = "nginx"
_INSIDE = "/opt/bench"  # where a container finds what is mounted


def python_path() -> str:
    """What lets any interpreter of this one's version import lbctl and what it needs."""
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    return os.pathsep.join([str(PROJECT), str(PROJECT / "src"), *libraries])


def _settings(place: Place, *, logs: bool) -> dict[str, str]:
    return {
        "LBCTL_PROJECT": "bench",
        "LBCTL_BIND": place.address,
        "LBCTL_PORT": str(place.port),
        "LBCTL_ADMIN_BIND": place.address,
        "LBCTL_ADMIN_PORT": str(place.admin_port),
        "LBCTL_WORKERS": "1",
        "LBCTL_ACCESS_LOG": "json" if logs else "off",
    }


def given(place: Place, python: str, *, logs: bool = False) -> Plan:
    """In front of the backends that all have."""
    env = _settings(place, logs=logs) | {
        "LBCTL_STATE_DIR": str(place.directory / "state"),
        "PYTHONPATH": python_path(),
    }
    argv = [python, "-m", "benchmarks.given", *place.backends]
    return Plan(argv, env=env, log_to_pipe=logs)


def up(place: Place, python: str) -> Plan:
    """The product's own command; `serving_up` runs it."""
    env = _settings(place, logs=False) | {
        "LBCTL_STATE_DIR": str(place.directory / "state"),
        "PYTHONPATH": python_path(),
    }
    return Plan([python, "-m", "lbctl", "up", "--runtime", "local", "--replicas", "3"], env=env)


@contextlib.contextmanager
def serving_up(plan: Plan, place: Place) -> Iterator[Running]:
    """Its backends are children of its supervisor, and would share the proxy's CPU: they are
    moved to the CPUs where the others' are.
    """
    lay_out(plan, place)
    env = environment(plan, place)
    try:
        _run(pinned([place.cores.proxy], plan.argv), env, place)
        state = Path(env["LBCTL_STATE_DIR"]) / "bench"
        supervisor = int((state / "supervisor.lock").read_text(encoding="ascii"))
        proxying = read_tree(supervisor, skip=(_NGINX,))
        for pid in read_tree(supervisor):
            if pid not in proxying:
                os.sched_setaffinity(pid, place.cores.load)
        lists = {file.read_bytes() for file in state.glob("backends/*/www/ips.txt")}
        if len(lists) != 1:
            raise OperationError(f"its backends have {len(lists)} different lists")
        own = {"/list.txt": ("/ips.txt", lists.pop())}
        yield Running(place.listens, supervisor, skip=(_NGINX,), own=own)
    finally:
        _run([*plan.argv[:3], "down", "--runtime", "local"], env, place)


def contained(place: Place) -> Plan:
    """lbctl in its container; `serving_contained` runs it."""
    settings = _settings(place, logs=False) | {
        "LBCTL_STATE_DIR": "/var/lib/lbctl",
        "PYTHONPATH": f"/opt/lbctl:{_INSIDE}",
    }
    mounts = [f"{PROJECT / 'benchmarks'}:{_INSIDE}/benchmarks:ro"]
    command = ["-m", "benchmarks.given", *place.backends]
    return Plan(_docker_run(place, "python3", mounts, settings, command))


def contained_haproxy(place: Place) -> Plan:
    """The same image only gives the place: program and libraries are the host's."""
    native = peers.haproxy(place)
    mounts = [
        "/usr:/usr:ro", "/usr/lib:/lib:ro", "/usr/lib64:/lib64:ro",
        f"{place.directory}:{_INSIDE}:ro",
    ]  # fmt: skip
    command = ["-db", "-f", f"{_INSIDE}/haproxy.cfg"]
    return Plan(_docker_run(place, native.argv[0], mounts, {}, command), native.files)


def _docker_run(
    place: Place,
    entrypoint: str,
    mounts: Sequence[str],
    env: dict[str, str],
    command: Sequence[str],
) -> list[str]:
    """With the rights that the product's container has."""
    argv = [
        place.program("docker"), "run", "--detach", "--network", "host",
        "--cpuset-cpus", str(place.cores.proxy), "--read-only", "--tmpfs", "/var/lib/lbctl",
        "--ulimit", "nofile=20000:20000", "--security-opt", "no-new-privileges",
        "--cap-drop", "ALL",
    ]  # fmt: skip
    for capability in ("CHOWN", "KILL", "SETGID", "SETUID"):
        argv += ["--cap-add", capability]
    for mount in mounts:
        argv += ["--volume", mount]
    for name, value in env.items():
        argv += ["--env", f"{name}={value}"]
    return [*argv, "--entrypoint", entrypoint, IMAGE, *command]


@contextlib.contextmanager
def serving_contained(plan: Plan, place: Place) -> Iterator[Running]:
    """Raises MachineError if no engine answers, or there is no such image."""
    lay_out(plan, place)
    docker = plan.argv[0]
    env = {name: value for name, value in os.environ.items() if not name.startswith("LBCTL_")}
    name = f"lbctl-bench-{secrets.token_hex(4)}"
    _ask_engine([docker, "version"], env, place, "no Docker engine answers")
    _ask_engine(
        [docker, "image", "inspect", IMAGE], env, place,
        f"there is no image {IMAGE}: `lbctl up --build` makes it, and so does "
        "`python -m tests.support.images`",
    )  # fmt: skip
    try:
        _run([*plan.argv[:2], "--name", name, *plan.argv[2:]], env, place)
        if not wait_until(place.listens, None, _START_S):
            raise OperationError(f"it does not serve: {_run([docker, 'logs', name], env, place)}")
        shown = _run([docker, "inspect", "--format", "{{.State.Pid}}", name], env, place)
        yield Running(place.listens, int(shown))
    finally:
        _run([docker, "rm", "--force", name], env, place)


def _ask_engine(argv: Sequence[str], env: dict[str, str], place: Place, otherwise: str) -> None:
    try:
        _run(argv, env, place)
    except OperationError:
        raise MachineError(otherwise) from None


def _run(argv: Sequence[str], env: dict[str, str], place: Place) -> str:
    """A command that ends by itself. Raises OperationError with its last line."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env,
            cwd=place.directory, timeout=_COMMAND_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OperationError(f"{argv[0]} did not end within {_COMMAND_S:g} s") from None
    said = (done.stdout + done.stderr).strip()
    if done.returncode:
        last = said.splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise OperationError(f"{Path(argv[0]).name}: {last[0][:300]}")
    return said.splitlines()[-1] if said else ""
