"""A unix socket comes in one step, and what is in its way is said."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from lbctl.errors import OperationError
from lbctl.sockets import is_at, listen

if TYPE_CHECKING:
    from pathlib import Path


def test_a_socket_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    before, old = listen(path, 0o666, 1)
    after, new = listen(path, 0o600, 1)
    with before, after, socket.socket(socket.AF_UNIX) as client:
        assert path.stat().st_mode & 0o777 == 0o600
        assert (is_at(path, old), is_at(path, new)) == (False, True)
        client.connect(str(path))
        after.accept()[0].close()
        assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    assert not is_at(path, new)


def test_what_cannot_be_removed_does_not_hide_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperationError, match=r"^cannot listen on .*/file/sock: Not a directory$"):
        listen(tmp_path / "file" / "sock", 0o600, 1)
