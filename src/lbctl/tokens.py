"""The two secrets of a stack, in files that only the controller may read, and how they change:
the admin token, and what the backends' tokens are drawn from (core/credentials.py).

A rotation is `begin`, then a while in which old and new are valid both, then `finish`. It is under
way as long as the file `admin-token.old` exists: that is made first and removed last, so whoever
leads next sees that there is something to finish, wherever the last one was killed. Finishing
is always right: it keeps the secrets that are in the files, and takes all others away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from typing import TYPE_CHECKING

from lbctl.core.credentials import name_of, token_of
from lbctl.errors import OperationError
from lbctl.paths import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from lbctl.model import Backend
    from lbctl.paths import Paths

_TOKEN = re.compile(r"[0-9a-f]{64}")
_BYTES = 32
_MODE = 0o400
_FILE_LIMIT_BYTES = 65  # a token and the end of its line
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def ensure(paths: Paths) -> None:
    """Make what is missing: both secrets, and the directory of the names by which backends know
    their tokens. Raises OperationError.

    Directories may be passed through but not listed (0711): who is not root sees nothing in them.
    """
    with _mapped("cannot write the tokens"):
        for directory in (paths.state, paths.secrets, paths.tokens):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            directory.chmod(0o711)
        _ensure_token(paths.admin_token)
        _ensure_token(paths.publish_secret)


def publish_token(paths: Paths, backend: Backend) -> str:
    """What opens the admin port of this backend, and of no other. Its nginx knows it from the
    first time that this is called. Raises OperationError.
    """
    token = token_of(read(paths.publish_secret), backend)
    known = paths.tokens / name_of(token, backend.ip)
    with _mapped("its token cannot be made known to it"):
        if not known.exists():
            os.close(os.open(known, os.O_CREAT | os.O_WRONLY, 0o444))
    return token


def keep_known(paths: Paths, backends: Iterable[Backend]) -> None:
    """Take away every name by which a token is known, but those of the present tokens of these
    backends. Raises OperationError, after all that can be taken away are.
    """
    secret = read(paths.publish_secret)
    wanted = {name_of(token_of(secret, backend), backend.ip) for backend in backends}
    with _mapped("cannot remove old tokens"):
        failed: OSError | None = None
        for known in list(paths.tokens.iterdir()):
            if known.name in wanted:
                continue
            try:
                known.unlink()
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed


def read(path: Path) -> str:
    """Raises OperationError if there is no such token yet, or not one of ours.

    Whatever lies there, it neither blocks nor reads more than a token.
    """
    try:
        descriptor = os.open(path, _FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OperationError(f"{path} is no file, and holds no token")
            data = os.read(descriptor, _FILE_LIMIT_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror or error
        raise OperationError(f"cannot read the token {path}: {why}") from None
    token = data.decode("ascii", "replace").strip()
    if len(data) > _FILE_LIMIT_BYTES or not _TOKEN.fullmatch(token):
        raise OperationError(f"{path} holds no token")
    return token


def under_way(paths: Paths) -> bool:
    """Whether a rotation was begun and is not finished."""
    return paths.retiring_token.exists()


def retiring(paths: Paths) -> str:
    """The admin token of before, while it is valid beside the new one; else ""."""
    try:
        return read(paths.retiring_token)
    except OperationError:
        return ""


def changed_at(paths: Paths) -> float | None:
    """When the present admin token was made, in seconds since the epoch; None without one."""
    try:
        return paths.admin_token.stat().st_mtime
    except OSError:
        return None


def begin(paths: Paths) -> None:
    """Put new secrets in the place of both; what the old ones opened stays open. Raises
    OperationError; what was begun is then to be finished all the same.
    """
    before = read(paths.admin_token)
    with _mapped("cannot write the new tokens"):
        _write(paths.retiring_token, before)
        _write(paths.publish_secret, secrets.token_hex(_BYTES))
        # The last one: where this file has changed, everything has.
        _write(paths.admin_token, secrets.token_hex(_BYTES))


def finish(paths: Paths, backends: Iterable[Backend]) -> None:
    """From now on only the admin token in the file is valid, and of the publish tokens the present
    ones of these backends. Raises OperationError, and then nothing is lost: it may be called again.
    """
    keep_known(paths, backends)
    with _mapped("cannot remove the old tokens"):
        for secret in (paths.publish_secret, paths.admin_token, paths.retiring_token):
            for left in secret.parent.glob(f".{secret.name}.*"):  # its writer was killed
                left.unlink()
        paths.retiring_token.unlink(missing_ok=True)


def _ensure_token(path: Path) -> None:
    if path.exists() and not _is_empty(path):
        read(path)  # for its errors
    else:
        _write(path, secrets.token_hex(_BYTES))


def _is_empty(path: Path) -> bool:
    """As a machine that lost its power may leave a file: nobody can have known that token."""
    facts = path.lstat()
    return stat.S_ISREG(facts.st_mode) and facts.st_size == 0


def _write(path: Path, token: str) -> None:
    write_atomically(path, token.encode() + b"\n", mode=_MODE, durable=True)


@contextlib.contextmanager
def _mapped(what: str) -> Iterator[None]:
    # The strerror alone, without the name of a file that is nobody's business.
    try:
        yield
    except OSError as error:
        raise OperationError(f"{what}: {error.strerror or error}") from None
