"""Docker's own client: the hand that disturbs, the same for every stack."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

from lbctl.errors import MachineError, OperationError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMAND_S = 60.0


def docker(*words: str) -> str:
    """What `docker WORDS` prints. Raises OperationError with its last line if it fails."""
    try:
        done = subprocess.run(
            ["docker", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_COMMAND_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise MachineError("docker is not installed\napt-get install docker.io") from None
    except subprocess.TimeoutExpired:
        raise OperationError(f"docker {words[0]} did not end within {_COMMAND_S:g} s") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise OperationError(f"docker {words[0]}: {last[0] if last else 'it says nothing'}")
    return done.stdout.strip()


def listed(*labels: str) -> list[str]:
    """Names of the containers with all of these labels, ended ones too, the oldest first."""
    filters = [word for label in labels for word in ("--filter", f"label={label}")]
    return docker("ps", "-a", *filters, "--format", "{{.Names}}").split()[::-1]


def address(container: str, network: str) -> str:
    """Its IP address on a network; "" while it does not run."""
    template = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
    return docker("inspect", "-f", template, container)


def kill_first_process(container: str) -> None:
    """SIGKILL behind the engine's back: it hears of the end only, and its restart policy holds."""
    pid = int(docker("inspect", "-f", "{{.State.Pid}}", container))
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        raise MachineError("ending a container's process takes root on its machine") from None


def remove(containers: Sequence[str]) -> None:
    """As one who does not wait; paused ones too."""
    if containers:
        docker("rm", "--force", "--volumes", *containers)
