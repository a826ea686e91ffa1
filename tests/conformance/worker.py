"""One worker of lbctl, the product's own, before backends of any kind.

A whole local stack has nginx behind it, which echoes nothing and speaks no WebSocket. A worker
without a controller routes on the snapshot that it finds in the state directory, so writing one
is all it takes. Its settings come from LBCTL_* as always.

`python -m tests.conformance.worker FD STATE` serves on a listening socket that it inherits.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from lbctl import config
from lbctl.paths import Paths
from lbctl.process import worker
from lbctl.process.board import Board

if __name__ == "__main__":
    descriptor, state = int(sys.argv[1]), Path(sys.argv[2])
    worker.main(
        worker.Seat(
            number=0,
            name="worker-0",
            config=config.load(),
            paths=Paths(state=state, secrets=state / "secrets"),
            sockets=[socket.socket(fileno=descriptor)],
            board=Board(1),
        )
    )
