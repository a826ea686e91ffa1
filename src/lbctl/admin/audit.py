"""Who changed what: one line a change that was asked for, and one a request that was refused.

docs/logging.md has the fields. Nothing in a line is a secret: parameters are those that were
understood, settings as status shows them, and of a token only whether it was right.
"""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lbctl.core.history import Event, Kind, unheard
from lbctl.core.text import printable
from lbctl.core.trickle import Trickle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger("lbctl.audit")
log.setLevel(logging.INFO)  # who changed what is said at every `log_level`

READ = "read"
UNKNOWN = "unknown"
_REFUSED_PER_S = 5.0
_REFUSED_BURST = 50


@dataclass(slots=True)
class Entry:
    """One request on its way to its line. `action` is empty as long as it is a read, of which
    there is a line only where it is refused.
    """

    client: str
    token: str  # "held", "wrong" or "none"
    agent: str
    method: str
    path: str
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    began_s: float = field(default_factory=time.monotonic)
    action: str = ""
    parameters: Mapping[str, Any] | None = None
    refused: str = ""


class Audit:
    """Writes the lines. Whoever holds no token cannot fill the log: beyond a rate such requests
    are only counted, and the next line says how many there were.
    """

    def __init__(
        self,
        lb: str,
        clock: Callable[[], float] = time.monotonic,
        record: Callable[[Event], None] = unheard,
    ) -> None:
        """`record` hears of changes that who holds the token asked for."""
        self._lb = lb
        self._record = record
        self._clock = clock
        self._trickle = Trickle(_REFUSED_PER_S, _REFUSED_BURST)

    def close(self, entry: Entry, status: int | None) -> None:
        """The request was answered so; None: it was broken off, and may be carried out still."""
        if not entry.action and not entry.refused:
            return
        now_s = self._clock()
        if entry.token != "held" and not self._trickle.may(now_s):  # noqa: S105 - a word
            return
        fields = {
            "request_id": entry.request_id,
            "lb": self._lb,
            "client": entry.client,
            "token": entry.token,
            "agent": printable(entry.agent, 100),
            "action": entry.action or READ,
            "method": printable(entry.method, 20),
            "path": printable(entry.path, 200),
            "parameters": entry.parameters,
            "status": status,
            "refused": entry.refused or None,
            "duration_ms": round((now_s - entry.began_s) * 1000, 3),
            "suppressed": self._trickle.said(),
        }
        log.info("%s by %s: %s", fields["action"], entry.client, status, extra={"audit": fields})
        if entry.action and entry.token == "held":  # noqa: S105 - a word
            text = f"by {entry.client}: {status or 'broken off'}"
            self._record(Event(Kind.AUDIT, text, entry.action, fields))
