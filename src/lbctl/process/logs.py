"""The logs of the control processes, "control" and "audit": JSON on stdout, one object a line
(docs/logging.md).
"""

from __future__ import annotations

import json
import logging
import select
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lbctl.process.output import Output

if TYPE_CHECKING:
    from types import TracebackType

_MESSAGE_LIMIT = 1024
_ERROR_LEAST = 256
_LINE_BYTES = select.PIPE_BUF - 1
_log = logging.getLogger("lbctl")


class JsonFormatter(logging.Formatter):
    """One line a record, that fits into a pipe in one piece: of a long traceback the end is kept,
    which says what happened.
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        time = moment[:-6] + "Z"
        audit = getattr(record, "audit", None)
        if audit is not None:
            text = json.dumps({"time": time, "log": "audit", **audit})
            if len(text) <= _LINE_BYTES:
                return text
            return json.dumps({"time": time, "log": "audit", **audit, "parameters": None})
        line = {
            "time": time,
            "log": "control",
            "level": record.levelname.lower(),
            "role": self._role,
            "source": record.name,
            "message": record.getMessage()[:_MESSAGE_LIMIT],
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        text = json.dumps(line)
        while len(text) > _LINE_BYTES:  # escapes make six characters of one, and more
            if len(line.get("error", "")) > _ERROR_LEAST:
                line["error"] = line["error"][len(line["error"]) // 4 :]
            else:
                line["message"] = line["message"][: len(line["message"]) * 3 // 4]
            text = json.dumps(line)
        return text


def set_up(role: str, level: str = "info") -> None:
    """Send everything this process logs to stdout, said to come from `role`; also what Python
    itself would write to stderr as plain text.
    """
    handler = logging.StreamHandler(Output(role=role))
    handler.setFormatter(JsonFormatter(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp").setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(capture=True)
    sys.excepthook = _ended_by


def _ended_by(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _log.critical("ended by an error that nobody expected", exc_info=(kind, error, trace))
