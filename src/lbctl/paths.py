"""Where an lb keeps its files. One layout for both runtimes.

state/                      0711; local: under the user's runtime directory. All lbs share it
  leader.lock               held (flock) by the one controller that decides
  serve.json                the settings as they were last changed; over those of the environment
  workers.sock              the leader's; workers and the other lbs' controllers connect
  snapshot.json             the last routes, so that a new worker routes at once
  membership.json           the last list and generation, so that they never go back
  scale.json                how many backends are wanted, of what, and who is out by hand
  counters.json             what workers that are gone had counted
  guard.json                what guards that are gone had counted
  admin-token               0400: changes through the admin port need it
  admin-token.old           0400: valid too, as long as a rotation is under way
  publish-secret            0400: what the token of each backend is drawn from
  history/                  0700: history.db and its older partitions (control/archive.py)
  memberships/              0700: one file a list, and `latest` (control/snapshots.py)
  lb.log                    local only; in a container the log is stdout
  backends/NAME/            local only: one nginx
run/                        one lb's own; local: the same directory, in a container /tmp
  supervisor.lock           locked as long as the supervisor lives; its pid is in it once it listens
  alive.lock                held (flock, shared) by every process of the lb
  ready                     there as long as all workers serve, once the controller runs
secrets/                    0711: the volume that backends mount read-only
  tokens/IP-FINGERPRINT     empty files: by them the nginx at that address knows its token
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
    run: Path | None = None  # None: the state directory, which no other lb shares

    @property
    def own(self) -> Path:
        return self.run or self.state

    @property
    def lock(self) -> Path:
        return self.own / "supervisor.lock"

    @property
    def alive(self) -> Path:
        return self.own / "alive.lock"

    @property
    def ready(self) -> Path:
        return self.own / "ready"

    @property
    def leader(self) -> Path:
        return self.state / "leader.lock"

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
    def guard_counters(self) -> Path:
        return self.state / "guard.json"

    @property
    def admin_token(self) -> Path:
        return self.state / "admin-token"

    @property
    def retiring_token(self) -> Path:
        return self.state / "admin-token.old"

    @property
    def publish_secret(self) -> Path:
        return self.state / "publish-secret"

    @property
    def history(self) -> Path:
        return self.state / "history"

    @property
    def memberships(self) -> Path:
        return self.state / "memberships"

    @property
    def log(self) -> Path:
        return self.state / "lb.log"

    @property
    def backends(self) -> Path:
        return self.state / "backends"

    @property
    def tokens(self) -> Path:
        return self.secrets / "tokens"


CONTAINER = Paths(
    state=Path("/var/lib/lbctl"),
    secrets=Path("/run/lbctl"),
    run=Path("/tmp"),  # noqa: S108 - the container's own
)
"""Inside the lb container: two volumes, and a file system in memory."""

GUARD_SOCKET = Path("/run/lbctl-guard/engine.sock")
"""On the volume that guard and lbs share, in a directory that nobody but root may pass."""


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


def write_atomically(path: Path, data: bytes, mode: int = 0o644, *, durable: bool = False) -> None:
    """Replace a file in one step: a reader sees the old bytes or the new ones, whole. With
    `durable` that holds for one after a loss of power, too.

    Raises OSError; the old file is then untouched.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            if durable:  # the name must not be on the disk before what it stands for
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
