"""Where an lb keeps its files. One layout for both runtimes.

state/                      0711; local: under the user's runtime directory
  supervisor.lock           locked as long as the supervisor lives; its pid is in it once it listens
  alive.lock                held (flock, shared) by every process of the lb
  serve.json                how the stack was started, for `up` run again and `status`
  workers.sock              the supervisor's, served by the controller; workers connect
  snapshot.json             the last routes, so that a new worker routes at once
  membership.json           the last list and generation, so that they never go back
  scale.json                how many backends are wanted, and which ones lbctl started
  counters.json             what workers that are gone had counted
  admin-token               0400: changes through the admin port need it
  lb.log                    local only; in a container the log is stdout
  backends/NAME/            local only: one nginx
secrets/                    0711: the volume that backends mount read-only
  token                     0400: what the publisher sends
  tokens/<64 hex digits>    empty files in a 0711 directory: knowing the name is the secret
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

WORKER_UID = 64101
PROGRAM_UID = 64102
"""Where lbctl runs as root its workers and its local nginx processes do not: they become
numbers without an account, a group or a home."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one lb."""

    state: Path
    secrets: Path

    @property
    def lock(self) -> Path:
        return self.state / "supervisor.lock"

    @property
    def alive(self) -> Path:
        return self.state / "alive.lock"

    @property
    def serve(self) -> Path:
        return self.state / "serve.json"

    @property
    def workers_socket(self) -> Path:
        return self.state / "workers.sock"

    @property
    def snapshot(self) -> Path:
        return self.state / "snapshot.json"

    @property
    def membership(self) -> Path:
        return self.state / "membership.json"

    @property
    def scale(self) -> Path:
        return self.state / "scale.json"

    @property
    def counters(self) -> Path:
        return self.state / "counters.json"

    @property
    def admin_token(self) -> Path:
        return self.state / "admin-token"

    @property
    def log(self) -> Path:
        return self.state / "lb.log"

    @property
    def backends(self) -> Path:
        return self.state / "backends"

    @property
    def token(self) -> Path:
        return self.secrets / "token"

    @property
    def tokens(self) -> Path:
        return self.secrets / "tokens"


CONTAINER = Paths(state=Path("/var/lib/lbctl"), secrets=Path("/run/lbctl"))
"""Inside the lb container: two volumes."""


def local(project: str) -> Paths:
    """The layout of a project on the local runtime.

    LBCTL_STATE_DIR, else /run for root (its XDG_RUNTIME_DIR lets nobody through, and nginx
    does not run as root), else XDG_RUNTIME_DIR, else the temporary directory with the user's
    id in the name.
    """
    named = os.environ.get("LBCTL_STATE_DIR")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if named:
        base = Path(named).absolute()
    elif os.geteuid() == 0:
        base = Path("/run/lbctl")
    elif runtime:
        base = Path(runtime) / "lbctl"
    else:
        base = Path(tempfile.gettempdir()) / f"lbctl-{os.geteuid()}"
    state = base / project
    return Paths(state=state, secrets=state / "secrets")


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file in one step: a reader sees the old bytes or the new ones, whole.

    Raises OSError; the old file is then untouched.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
