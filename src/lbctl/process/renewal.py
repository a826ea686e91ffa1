"""The certificates of one lb, as its supervisor holds them: what is in use, and what replaced it.

The supervisor is root and reads the files; workers are forked with what was read, so they need no
right to the keys, and one that is started again has what its crew has, whatever lies there now.
Files are looked at, not watched: one look a second costs less than it takes to be told reliably
about links, mounts and files that are moved into place.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lbctl.certificates import load, source_of
from lbctl.core.text import printable

if TYPE_CHECKING:
    from lbctl.certificates import Credentials
    from lbctl.config import Config
    from lbctl.model import Certificate

_log = logging.getLogger("lbctl.supervisor")

LOOK_INTERVAL_S = 1.0
TRY_AGAIN_S = 30.0
WARN_DAYS = 14
_DAY_S = 86_400
_LINE = 300


class Renewal:
    """`credentials` are what workers are to have that start now; None without TLS.

    Raises UsageError for settings that contradict each other, OperationError where there is
    nothing that can be used.
    """

    def __init__(self, config: Config) -> None:
        self._source = source_of(config.tls)
        self.credentials: Credentials | None = None
        self._seen: object = None
        self._loaded: object = None  # the look at which they were read
        self._told: list[str] = []
        self._not_before_s = 0.0
        if self._source is not None:
            self._loaded = self._source.look()
            self.credentials, problems = load(self._source)
            self._tell(problems)

    @property
    def certificates(self) -> list[Certificate]:
        return self.credentials.certificates if self.credentials is not None else []

    def look(self) -> None:
        """Read the files if they have changed and have been at rest since the last look: whoever
        replaces a certificate and its key does one after the other.
        """
        if self._source is None:
            return
        before, self._seen = self._seen, self._source.look()
        if self._seen == before and self._seen != self._loaded:
            self.read()

    def due(self, used: Credentials | None, now_s: float) -> bool:
        """Look, and say whether workers are to be swapped now: those that serve use `used`."""
        self.look()
        return self.credentials is not used and now_s >= self._not_before_s

    def failed(self, now_s: float) -> None:
        """Workers that were to replace others do not serve: not again for a while."""
        self._not_before_s = now_s + TRY_AGAIN_S

    def forget(self) -> None:
        """For a process that is to know no key."""
        self.credentials = None

    def read(self) -> None:
        """Read them now. What cannot be used leaves in use what was, and is logged once."""
        if self._source is None:
            return
        self._loaded = self._source.look()
        self.credentials, problems = load(self._source, self.credentials)
        self._tell(problems)

    def _tell(self, problems: list[str]) -> None:
        """Each problem once, until it is gone; what expires at every reading."""
        for problem in problems:
            if problem not in self._told:
                _log.error("a certificate is not used: %s", printable(problem, _LINE))
        self._told = problems
        for certificate in self.certificates:
            text = expiry_text(certificate, time.time())
            if text:
                _log.warning("certificate %s %s", printable(certificate.name, _LINE), text)


def expiry_text(certificate: Certificate, now_s: float) -> str:
    """What there is to say about its validity; "" if it is well for WARN_DAYS yet."""
    until = datetime.fromtimestamp(certificate.not_after_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if certificate.not_before_s > now_s:
        begins = datetime.fromtimestamp(certificate.not_before_s, UTC).strftime("%Y-%m-%d %H:%M")
        return f"is not valid before {begins} UTC"
    left_s = certificate.not_after_s - now_s
    if left_s <= 0:
        return f"has expired: {until}"
    if left_s < WARN_DAYS * _DAY_S:
        return f"expires in {int(left_s // _DAY_S)} days: {until}"
    return ""
