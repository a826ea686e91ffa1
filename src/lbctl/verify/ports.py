"""What verify needs of the stack it disturbs: its admin port, and hands.

The command line hands in the former, `hands.py` has the latter for each runtime; a test has its
own. All raise only errors of lbctl.errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lbctl.verify.view import Process, Seat


class Admin(Protocol):
    """The admin port. UnsupportedError says that this lb has no such thing."""

    async def status_text(self) -> str:
        """`GET /api/v1/status`."""

    async def metrics_text(self) -> str:
        """`GET /metrics`, in Prometheus' text format."""

    async def scale(self, replicas: int) -> None:
        """Return when every list holds so many."""

    async def drain(self, backend_id: str) -> None:
        """Return when it is out of rotation and idle."""

    async def undrain(self, backend_id: str) -> None:
        """Let it serve again."""

    async def rollout(self) -> int:
        """Begin to replace every backend; returns the revision that `status` tells of."""

    async def reload(self, settings: Mapping[str, Any]) -> None:
        """With these, and else with those of before; return when new workers serve in the place
        of the old ones.
        """


class Hands(Protocol):
    """Does to the processes of a stack what nobody should do."""

    async def kill_backend(self, backend: Seat) -> None:
        """SIGKILL."""

    def cannot_stop(self) -> str:
        """Why nobody can stop a backend from outside the lb; "" if it can be done."""

    async def stop_backend(self, backend: Seat) -> None:
        """As `docker stop`; returns when it has exited."""

    async def revive_backend(self, backend: Seat) -> None:
        """Start one that was killed or stopped, where nobody else does; one that is gone, or
        runs, is fine.
        """

    async def pause_backend(self, backend: Seat) -> None:
        """It does nothing any more, and keeps its connections."""

    async def resume_backend(self, backend: Seat) -> None:
        """The end of that; one that is gone, or is not paused, is fine."""

    async def kill_process(self, process: Process) -> None:
        """SIGKILL to one process of an lb."""

    async def kill_lb(self, lb: str) -> None:
        """SIGKILL to all of one lb, by its name in `status`."""

    async def revive_lb(self, lb: str) -> None:
        """Start it again; one that runs is fine."""

    def cannot_upgrade(self) -> str:
        """Why nobody can replace the lbs one after the other; "" if it can be done."""

    async def upgrade(self) -> None:
        """As `lbctl upgrade`; returns when it is done."""

    async def has_guard(self) -> bool:
        """Whether a guard stands between the lb and the engine."""

    async def kill_guard(self) -> None:
        """SIGKILL."""

    async def revive_guard(self) -> None:
        """Start it again; one that runs is fine."""

    async def cannot_restart_engine(self) -> str:
        """Why the engine cannot be restarted; "" if it can be, and leaves its containers be."""

    async def restart_engine(self) -> None:
        """Returns when it answers again."""
