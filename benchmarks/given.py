"""lbctl with backends that are given, not found: the product whole, but for its discovery.

    python -m benchmarks.given 127.77.1.1:8080 127.77.1.2:8080 ...

Supervisor, controller and workers are the product's own, with all defaults and whatever the
environment sets (LBCTL_PORT ...): the controller checks these backends' health, routes to them
and gathers the workers' counters, as always. It only writes no list into them. So a benchmark
can put lbctl in front of the very servers that the other proxies have.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING
from unittest import mock

from lbctl import config, paths
from lbctl.errors import EngineError, LbctlError, UsageError
from lbctl.model import Backend, Instance, Phase
from lbctl.ports import Change
from lbctl.process import supervisor
from lbctl.runtime import local

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from lbctl.model import Release


class GivenRuntime:
    """Implements ports.Runtime: these backends run, always."""

    name = "local"

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._instances = [
            Instance(backend.id, backend.name, Phase.RUNNING, backend) for backend in backends
        ]

    async def recover(self) -> None:
        """They run already."""

    async def start(self, count: int, release: Release) -> list[str]:
        raise EngineError(f"{count} more of {release}: these backends are given")

    async def stop(self, instance_id: str, grace_s: float) -> None:
        raise EngineError(f"{instance_id} is not to be stopped, in {grace_s} s or ever")

    async def list(self) -> list[Instance]:
        return self._instances

    async def last_lines(self, instance_id: str, count: int) -> Sequence[str]:  # noqa: ARG002
        return []

    async def watch(self) -> AsyncIterator[Change]:
        yield Change("subscribed")
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing is held open."""


def backend(number: int, address: str) -> Backend:
    """The one at `address`, an IPv4 address and port. Raises UsageError."""
    ip, _, port = address.rpartition(":")
    if not ip or not port.isascii() or not port.isdigit():
        raise UsageError(f"{address!r} is no address:port")
    name = f"backend-{number}"
    return Backend(name, name, ip, int(port), publish=False)


def main(addresses: Sequence[str]) -> int:
    """Serve until SIGTERM. Returns the exit status."""
    try:
        return serve([backend(number, address) for number, address in enumerate(addresses, 1)])
    except LbctlError as error:
        print(f"benchmarks.given: {error}", file=sys.stderr)
        return error.exit_status


def serve(backends: Sequence[Backend]) -> int:
    """Until SIGTERM; returns the exit status. Raises UsageError for wrong settings."""
    settings = config.load({"runtime": "local"})
    # The controller imports it by this name, in a process of its own that is forked later.
    with mock.patch.object(local, "LocalRuntime", return_value=GivenRuntime(backends)):
        return supervisor.main(settings, paths.local(settings.project), lambda: settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
