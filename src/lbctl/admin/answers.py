"""Errors, as the admin port tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from lbctl.errors import (
    DeadlineError,
    EngineError,
    EngineUnavailableError,
    ImageError,
    LbctlError,
    OperationError,
    UsageError,
)

if TYPE_CHECKING:
    from lbctl.admin.audit import Entry


def error_answer(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


def failed(error: LbctlError) -> web.Response:
    """For what was tried, and did not work."""
    return error_answer(_status_of(error), str(error))


def refused(entry: Entry, status: int, kind: str, text: str) -> web.Response:
    """For somebody who may not ask, or not so; the audit log says why."""
    entry.refused = kind
    response = error_answer(status, text)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _status_of(error: LbctlError) -> int:
    match error:
        case UsageError():
            return 400
        case DeadlineError():
            return 504
        case EngineError() | EngineUnavailableError() | ImageError():
            return 502
        case OperationError():
            return 409  # it may not be done as things stand: overtaken by a newer wish, say
        case _:
            return 500
