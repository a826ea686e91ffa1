"""What `lbctl doctor` says of certificates: of those that the settings name, else of those that the
stack which is there has.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lbctl.certificates import (
    closing,
    open_to_others,
    open_where_mounted,
    read_pair,
    source_of,
)
from lbctl.cli.findings import Finding, Level
from lbctl.config import Tls
from lbctl.core.text import printable
from lbctl.errors import LbctlError, OperationError
from lbctl.process.renewal import expiry_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lbctl.certificates import Files, Source
    from lbctl.deploy import FoundStack

_NAMES_SHOWN = 4


def findings(settings: Tls, stacks: Collection[FoundStack | None]) -> Iterator[Finding]:
    """One a certificate; none without TLS."""
    named = [stack.tls_files for stack in stacks if stack is not None and stack.tls_files]
    if not settings.on and named:
        files: dict[str, Any] = dict(named[0])
        settings = Tls(**files)
    try:
        source = source_of(settings)
        pairs = source.files() if source is not None else []
    except LbctlError as error:
        yield Finding(Level.HINT, "certificates", str(error), "see docs/tls.md")
        return
    if source is not None and not pairs:
        text = f"{source.directory}: no NAME.crt with a NAME.key, and no NAME.pem"
        yield Finding(Level.HINT, "certificates", text, "put them there: docs/tls.md")
    # A stack of processes mounts nothing.
    mounted = {stack.runtime for stack in stacks if stack is not None} != {"local"}
    for pair in pairs:
        yield _finding(pair, source if mounted else None)


def _finding(files: Files, mounted: Source | None) -> Finding:
    subject = f"certificate {printable(files.name, 60)}"
    try:
        certificate = read_pair(files).certificate
    except OperationError as error:
        return Finding(
            Level.HINT, subject, str(error), "clients get the one of before, or none: replace it"
        )
    expiry = expiry_text(certificate, time.time())
    if expiry:
        return Finding(Level.HINT, subject, expiry, f"replace {files.cert} and its key")
    if open_to_others(files.key):
        text = f"other users of this machine can read {files.key}"
        return Finding(Level.HINT, subject, text, f"chmod 600 {files.key}")
    if mounted is not None and open_where_mounted(files.key, mounted):
        text = f"on docker, every user in an lb's container can read {files.key}"
        return Finding(Level.HINT, subject, text, closing(files.key))
    names = ", ".join(certificate.names[:_NAMES_SHOWN]) or "no host"
    more = len(certificate.names) - _NAMES_SHOWN
    days = int((certificate.not_after_s - time.time()) // 86_400)
    text = f"for {names}{f' and {more} more' if more > 0 else ''}, {days} days left"
    return Finding(Level.OK, subject, text)
