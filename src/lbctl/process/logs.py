"""The log of the control processes: JSON on stdout, one object a line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from lbctl.process.output import Output


class _JsonFormatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": moment[:-6] + "Z",
            "log": "control",
            "level": record.levelname.lower(),
            "role": self._role,
            "source": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up(role: str) -> None:
    """Send everything this process logs to stdout, said to come from `role`."""
    handler = logging.StreamHandler(Output())
    handler.setFormatter(_JsonFormatter(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
