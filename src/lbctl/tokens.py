"""The two secrets of a stack: made once, kept in files that only the controller may read."""

from __future__ import annotations

import os
import re
import secrets
from typing import TYPE_CHECKING

from lbctl.errors import OperationError
from lbctl.paths import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from lbctl.paths import Paths

_TOKEN = re.compile(r"[0-9a-f]{64}")


def ensure(paths: Paths) -> None:
    """Make what is missing: the admin token, the publisher's token, and the empty file by
    which an nginx knows the latter.

    The directories may be passed through but not listed (0711), so that who knows no token
    finds none. Raises OperationError.
    """
    try:
        for directory in (paths.state, paths.secrets, paths.tokens):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            directory.chmod(0o711)
        _ensure_token(paths.admin_token)
        token = _ensure_token(paths.token)
        known = paths.tokens / token
        if not known.exists():
            os.close(os.open(known, os.O_CREAT | os.O_WRONLY, 0o444))
    except OSError as error:
        raise OperationError(f"cannot write the tokens: {error}") from None


def read(path: Path) -> str:
    """Raises OperationError if there is no such token yet, or not one of ours."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OperationError(f"cannot read the token {path.name}: {error}") from None
    if not _TOKEN.fullmatch(token):
        raise OperationError(f"{path} holds no token")
    return token


def _ensure_token(path: Path) -> str:
    if path.exists():
        return read(path)
    token = secrets.token_hex(32)
    write_atomically(path, token.encode() + b"\n", mode=0o400)
    return token
